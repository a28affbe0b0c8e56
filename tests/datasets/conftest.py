"""Real data in Pascal VOC's layout."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bccd_root() -> Path:
    """364 microscope images with their XML files and lists of splits."""
    folder = Path(os.environ.get("QDET_BCCD_ROOT", REPO.parent / "shared" / "bccd"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set QDET_BCCD_ROOT to run this test")
    return folder
