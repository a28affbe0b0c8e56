"""MLflow's pages of a real run, in a real browser: what a newcomer looks for is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import find_chromium, open_browser
from tests.support.mlflow_pages import LARGEST, STORAGE, served, take_pictures

REPO = Path(__file__).resolve().parents[2]
CHROMIUM = find_chromium()


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
def test_the_pages_of_a_run(tmp_path, demo_shards: Path):
    from mlflow import MlflowClient

    pytest.importorskip("websockets")
    (tmp_path / "data").symlink_to(demo_shards)
    job = shutil.copy(REPO / "tests" / "support" / "tiny_job.py", tmp_path)
    flags = ["--local", "--train.zero", "0", "--train.steps", "12", "--train.eval-every", "1"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "QDET_"))}
    done = subprocess.run(
        [sys.executable, job, *flags],
        cwd=tmp_path, env=kept | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert CHROMIUM
    with served(tmp_path) as address, open_browser(CHROMIUM, storage=STORAGE) as page:
        take_pictures(page, address, MlflowClient(address.partition("/#")[0]), tmp_path)
    for name in ("runs", "run", "model", "pictures"):
        assert 10_000 < (tmp_path / f"{name}.png").stat().st_size < LARGEST
