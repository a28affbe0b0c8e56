"""A long training takes no more and more memory, open files or threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.steadiness import SETTLED, slope

REPO = Path(__file__).resolve().parent.parent.parent
MEGABYTES = 0.5
"""By which memory may grow in 1,000 steps."""
ONE_HEAP = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""Threads that end leave parts of their heaps to others; see `benchmarks.steadiness`."""


def test_a_slope_is_that_of_the_settled_part():
    steps = list(range(0, 4001, 50))
    values = [500.0 * (step <= SETTLED) + 0.003 * step for step in steps]
    assert slope(steps, values) == pytest.approx(3.0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_nothing_grows_after_the_first_1000_steps(tmp_path):
    """With evaluations, checkpoints, gradients computed twice and every step logged to MLflow."""
    found = tmp_path / "samples.json"
    command = [sys.executable, "-m", "benchmarks.steadiness", "--steps", "4000", "--samples", str(found)]
    subprocess.run(command, cwd=REPO, env=os.environ | ONE_HEAP, check=True, timeout=2300)
    samples = json.loads(found.read_text())
    steps = samples["steps"]
    assert steps[-1] == 4000
    assert slope(steps, samples["megabytes"]) <= MEGABYTES
    for name in ("files", "threads"):
        late = [value for step, value in zip(steps, samples[name], strict=True) if step > SETTLED]
        third = len(late) // 3
        assert max(late[-third:]) <= max(late[:third]), name
