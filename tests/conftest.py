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


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with shards `train` (48 images) and `val` (16) of 64-pixel renderings."""
    from rich.console import Console

    from data_prep.coco_to_shards import Conversion, convert
    from data_prep.synthetic import SyntheticConfig, prepare

    root = tmp_path_factory.mktemp("demo")
    prepare(SyntheticConfig(out=root / "coco", train=48, val=16, size=64, workers=1))
    for split in ("train", "val"):
        conversion = Conversion(coco=root / "coco", split=split, out=root / split, processes=1)
        convert(conversion, console=Console(quiet=True))
    return root
