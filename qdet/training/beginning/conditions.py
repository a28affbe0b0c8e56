"""What decides the numbers of a run besides its settings and data: code, libraries, processors."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from qdet.tracking import git_commit

LIBRARIES = (
    *("qdet", "torch", "deepspeed", "numpy", "scipy"),
    *("opencv-python-headless", "simplejpeg", "Pillow", "webdataset"),
)
"""Packages that a loss depends on."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a training is computed by."""

    commit: str | None
    """Commit of the code; None if that was no working copy."""
    versions: dict[str, str]
    """Versions of Python and of `LIBRARIES` by name."""
    device: str
    """`cpu` or `cuda`."""
    processor: str
    """Model of rank 0's GPU or processor, and which of its instructions torch uses."""
    threads: int
    """Threads of a rank on a CPU; 0 on a GPU."""


def observe_conditions(device: torch.device) -> Conditions:
    """Return the conditions in this process, whose ranks train on `device`."""
    gpu = device.type == "cuda"
    installed = {name: found for name in LIBRARIES if (found := find_version(name))}
    on_cpu = f"{find_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return Conditions(
        commit=git_commit(),
        versions={"python": platform.python_version()} | installed,
        device=device.type,
        processor=torch.cuda.get_device_name(device) if gpu else on_cpu,
        threads=0 if gpu else torch.get_num_threads(),
    )


def find_version(package: str) -> str | None:
    """Return the version of an installed package, without importing it; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_processor() -> str:
    """Return the processor's model, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())
