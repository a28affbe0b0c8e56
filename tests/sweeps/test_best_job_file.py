"""The job file of the best trial makes the very job, whatever differs from the defaults."""

import importlib.util
import random
from pathlib import Path

import pytest

from qdet.config import flatten, override
from qdet.job import Job
from qdet.job_files import JOBS
from qdet.launching.runs.sweeps.job_source import render_job
from qdet.recipes import read


def _made(source: str, folder: Path) -> Job:
    file = folder / "best.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("best", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.job


@pytest.mark.parametrize("file", sorted(path.stem for path in JOBS.glob("*.py")))
def test_every_job_and_its_demo_come_back(file: str, tmp_path: Path):
    recipe = read(JOBS / f"{file}.py")
    for job in (recipe.job, recipe.job.demo(recipe.demo)):
        settings = {"optim.lr": random.Random(file).uniform(1e-5, 1e-3), "train.seed": 3}
        wanted = override(job, settings)
        made = _made(render_job(wanted, 'the best of "it" \\ """'), tmp_path)
        assert made == wanted
        assert flatten(made) == flatten(wanted)


def test_only_what_differs_is_written(tmp_path: Path):
    source = render_job(override(Job(name="plain"), {"optim.drop_epochs": (8,)}), "about")
    assert "drop_epochs=(8,)" in source
    assert "seed" not in source
    infinite = override(Job(name="plain"), {"optim.lr": float("inf")})
    assert _made(render_job(infinite, "about"), tmp_path) == infinite
