"""Jobs that come with qdet, named from a checkout and from an installed package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qdet.errors import ConfigError
from qdet.job_files import JOBS, find_job, name_job, shipped
from qdet.recipes import read
from tests.support.recipes import REPO

PACKED = ("qdet", "data_prep", "jobs")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def test_a_job_is_named_by_its_path_or_by_the_name_that_it_comes_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPO)
    assert find_job("jobs/detr_r50.py") == Path("jobs/detr_r50.py")
    assert find_job("qdet:detr_r50") == find_job("qdet:detr_r50.py") == JOBS / "detr_r50.py"


def test_every_shipped_job_is_found_under_the_name_that_is_shown(tmp_path: Path, monkeypatch):
    for folder in (REPO, tmp_path):
        monkeypatch.chdir(folder)
        for path in shipped():
            assert read(find_job(name_job(path))).job.name.startswith(path.stem.split("_")[0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("qdet:detr_r5", "Did you mean detr_r50"),
        ("qdet:../zoo", "no such job comes with qdet"),
        ("elsewhere/detr_r50.py", "qdet:detr_r50 comes with qdet"),
        ("nowhere.py", "nowhere.py: there is no such file"),
    ],
)
def test_a_job_that_is_not_there_is_answered_with_those_that_are(
    given: str, says: str, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        find_job(given)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, unpacked: what `pip install .` puts into site-packages."""
    pytest.importorskip("setuptools", "77", reason="setuptools builds the wheel")
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in PACKED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copyfile(REPO / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, wheels], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    target = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def test_a_wheel_has_the_jobs_the_types_marker_and_nothing_beside_its_packages(unpacked: Path):
    assert {p.name for p in (unpacked / "qdet" / "jobs").iterdir()} == {p.name for p in shipped()}
    assert (unpacked / "qdet" / "py.typed").is_file()
    tops = {path.name for path in unpacked.iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"qdet", "data_prep"}


def test_an_installed_package_runs_its_jobs_anywhere(unpacked: Path, tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "qdet", "run", "qdet:adamixer_swin", "--", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "AdaMixer" in shown.stdout
    assert "--train.epochs" in shown.stdout
