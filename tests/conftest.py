"""Shared fixtures: recorded numbers, real images, seeds."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Numbers recorded from the authors' code."""
    return _folder("QDET_PARITY_DIR", REPO.parent / "shared" / "parity")


@pytest.fixture(scope="session")
def coco_root() -> Path:
    """A small real COCO dataset in the standard layout."""
    return _folder("QDET_COCO_ROOT", REPO.parent / "shared" / "coco128")


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)
