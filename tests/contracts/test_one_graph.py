"""Every detector is one graph to torch.compile: a break costs a return to Python in each step."""

import os
import subprocess
import sys

import pytest

from tests.support.detector_variants import ONE_EACH
from tests.support.recipes import REPO

COMPILE = """
import sys, torch
from tests.support.detector_variants import CLASSES, SIZES, VARIANTS, images, shaken
torch.set_num_threads(1)
detector = shaken(VARIANTS[sys.argv[1]][0].build(CLASSES)).train()
print(torch._dynamo.explain(detector)(images(), SIZES).graph_break_count)
"""
QUICK = [name for name in ONE_EACH if name.startswith("detr_")]


@pytest.mark.parametrize(
    "variant", [*QUICK, *(pytest.param(v, marks=pytest.mark.slow) for v in ONE_EACH if v not in QUICK)]
)
def test_a_detector_is_one_graph(variant: str):
    """In a process of its own: types are checked at run time here, which torch.compile cannot follow."""
    command = [sys.executable, "-c", COMPILE, variant]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"]
