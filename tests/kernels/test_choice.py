"""Which implementation runs, and what a user is told who asks for one that cannot."""

import os
import subprocess
import sys

import pytest
import torch

from qdet.errors import ConfigError
from qdet.kernels import choice
from qdet.kernels.choice import choose_kernels, kernels, kernels_wanted
from tests.support.interpreter import interpreted


def test_importing_and_running_on_a_cpu_imports_no_triton():
    code = """
import sys, torch
from qdet.detectors import AdaMixerConfig
import qdet.losses, qdet.kernels.sampling_3d
AdaMixerConfig().demo().build(2)(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))
print("triton" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    assert done.stdout.strip() == "False"


def test_required_kernels_that_cannot_run_are_an_error(monkeypatch):
    monkeypatch.setattr(choice, "has_triton", lambda: False)
    with pytest.raises(ConfigError, match=r"--train\.kernels triton: Triton cannot be imported"):
        choose_kernels("triton", torch.device("cuda"))
    monkeypatch.setattr(choice, "has_triton", lambda: True)
    monkeypatch.setattr(choice, "interpreting", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device, and this run computes on cpu"):
        choose_kernels("triton", torch.device("cpu"))


@interpreted
def test_a_cpu_takes_kernels_only_where_they_are_required():
    plain = torch.zeros(1)
    for name, wanted in (("auto", False), ("torch", False), ("triton", True)):
        with kernels(name):
            assert kernels_wanted(plain) == wanted
            assert not kernels_wanted(plain, torch.zeros(1, device="meta")) or wanted
