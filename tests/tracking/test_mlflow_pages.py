"""MLflow's pages of a real run and sweep, in a real browser: what a newcomer looks for is there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.conftest import *  # noqa: F403  (the lock of tests that start Ray)
from tests.support.browser import find_chromium, open_browser
from tests.support.mlflow_pages import LARGEST, STORAGE, served, take_pictures, take_sweep_pictures

REPO = Path(__file__).resolve().parents[2]
CHROMIUM = find_chromium()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH"),
]


def test_the_pages_of_a_run(tmp_path, demo_shards: Path):
    _train(
        tmp_path,
        demo_shards,
        "--local",
        "--train.zero",
        "0",
        "--train.steps",
        "12",
        "--train.eval-every",
        "1",
    )
    _take(tmp_path, take_pictures)
    for name in ("runs", "run", "model", "pictures"):
        assert 10_000 < (tmp_path / f"{name}.png").stat().st_size < LARGEST


@pytest.mark.ray
@pytest.mark.usefixtures("only_cluster")
def test_the_pages_of_a_sweep(tmp_path, demo_shards: Path):
    """Of its three trials the last one fails."""
    budget = ("--sweep.trials", "3", "--train.workers", "1", "--train.steps", "12")
    _train(tmp_path, demo_shards, "--sweep", "--store.run", "night", *budget, "--sweep.scheduler", "none")
    _take(tmp_path, take_sweep_pictures, "--sweeps")
    for name in ("sweep_runs", "sweep"):
        assert 10_000 < (tmp_path / f"{name}.png").stat().st_size < LARGEST


def _train(folder: Path, shards: Path, *flags: str) -> None:
    """Run the tiny job in a folder."""
    (folder / "data").symlink_to(shards)
    job = shutil.copy(REPO / "tests" / "support" / "tiny_job.py", folder)
    kept = {n: value for n, value in os.environ.items() if not n.startswith(("MLFLOW_", "QDET_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, job, *flags],
        cwd=folder, env=kept | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _take(folder: Path, take: Callable[..., None], *flags: str) -> None:
    from mlflow import MlflowClient

    pytest.importorskip("websockets")
    assert CHROMIUM
    with served(folder, *flags) as address, open_browser(CHROMIUM, storage=STORAGE) as page:
        take(page, address, MlflowClient(address.partition("/#")[0]), folder)
