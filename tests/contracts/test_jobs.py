"""Every job file: it imports quickly, says what it is, can be built, and its sweep names real settings."""

import os
import runpy
from pathlib import Path

import pytest
import torch

from qdet.job import Job, Sweep
from qdet.training.optim import parameter_groups

REPO = Path(__file__).resolve().parents[2]
JOBS = sorted((REPO / "jobs").glob("*.py"))
# Trained and frozen parameters for 80 classes, counted from the authors' code; theirs counts the first boxes
# of the queries too, 4 numbers each, which are a constant here.
PARAMETERS = {
    "adamixer_r50": 134_790_904 - 100 * 4,
    "adamixer_r50_300": 134_842_904 - 300 * 4,
    "adamixer_r101": 153_835_032 - 300 * 4,
    "adamixer_x101_dcn": 156_035_380 - 300 * 4,
    "adamixer_swin": 159_559_074 - 300 * 4,
}
RECIPES = {  # queries, epochs, learning rate drops, warm-up steps, crops
    "adamixer_r50": (100, 12, (8, 11), 500, False),
    "adamixer_r50_300": (300, 36, (24, 33), 500, True),
    "adamixer_r101": (300, 36, (24, 33), 500, True),
    "adamixer_x101_dcn": (300, 36, (24, 33), 500, True),
    "adamixer_swin": (300, 36, (24, 33), 1000, True),
}


@pytest.fixture(params=JOBS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def module(path: Path) -> dict:
    return runpy.run_path(str(path))


def test_there_are_jobs():
    assert {path.stem for path in JOBS} == RECIPES.keys()


def test_file_is_an_executable_that_says_how_to_run_it(path: Path, module: dict):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env python\n")
    assert f"python jobs/{path.name}" in module["__doc__"]
    assert "https://arxiv.org/abs/" in module["__doc__"]


def test_job_is_the_published_recipe(path: Path, module: dict):
    job: Job = module["job"]
    assert job.name == path.stem
    queries, epochs, drops, warmup, crop = RECIPES[path.stem]
    assert (job.detector.queries, job.train.epochs, job.optim.drop_epochs) == (queries, epochs, drops)
    assert (job.optim.lr, job.optim.weight_decay, job.optim.clip_norm) == (2.5e-5, 1e-4, 1.0)
    assert (job.train.batch_size, job.optim.warmup_steps, job.optim.warmup_ratio) == (16, warmup, 0.001)
    assert (job.data.augment.crop, job.data.augment.max_size) == (crop, 1333)
    assert (min(job.data.augment.sizes), max(job.data.augment.sizes)) == ((480, 800) if crop else (800, 800))


def test_detector_has_the_published_size(path: Path, module: dict):
    with torch.device("meta"):
        detector = module["job"].detector.build(80)
    assert sum(p.numel() for p in detector.parameters()) == PARAMETERS[path.stem]


def test_every_parameter_setting_of_the_recipe_names_a_parameter(module: dict):
    job: Job = module["job"]
    with torch.device("meta"):
        detector = job.detector.build(80)
    groups = parameter_groups(detector.named_parameters(), job.optim)
    exempt = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    assert bool(exempt) == bool(job.optim.no_decay)
    assert not any(name.startswith("neck") for name in exempt)


def test_sweep_names_settings_of_the_job(module: dict):
    sweep: Sweep | None = module.get("sweep")
    if sweep is None:
        pytest.skip("this job has no sweep")
    sweep.check(module["job"])
    sweep.check(module["job"].demo())


def test_demo_is_small(module: dict):
    demo = module["job"].demo()
    with torch.device("meta"):
        detector = demo.detector.build(6)
    assert sum(p.numel() for p in detector.parameters()) < 10e6
    assert demo.train.workers == 2
