"""Every job file: it imports quickly, says what it is, can be built, and its sweep names real settings."""

import os
import runpy
from pathlib import Path

import pytest
import torch
from recipes import JOBS, RECIPES

from qdet.job import Job, Sweep
from qdet.training.optim import parameter_groups


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
    recipe = RECIPES[path.stem]
    assert (job.detector.queries, job.train.epochs) == (recipe.queries, recipe.epochs)
    assert (job.optim.drop_epochs, job.train.batch_size) == (recipe.drops, recipe.batch)
    assert (job.optim.lr, job.optim.weight_decay, job.optim.clip_norm) == (recipe.lr, 1e-4, recipe.clip)
    assert job.optim.warmup_steps == recipe.warmup
    augment = job.data.augment
    assert (augment.crop, augment.max_size) == (recipe.crop, 1333)
    assert (min(augment.sizes), max(augment.sizes)) == recipe.sizes


def test_every_parameter_setting_of_the_recipe_names_a_parameter(path: Path, module: dict):
    job: Job = module["job"]
    with torch.device("meta"):
        detector = job.detector.build(80)
    groups = parameter_groups(detector.named_parameters(), job.optim)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    exempt = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    assert bool(exempt) == bool(job.optim.no_decay)
    assert not any(name.startswith("neck") for name in exempt)
    recipe = RECIPES[path.stem]
    of_backbone = [rate for name, rate in rates.items() if name.startswith("backbone.")]
    assert of_backbone == [pytest.approx(recipe.lr * recipe.backbone_factor)] * len(of_backbone)
    assert recipe.lr in rates.values()


def test_sweep_names_settings_of_the_job(module: dict):
    sweep: Sweep = module["sweep"]
    sweep.check(module["job"])
    sweep.check(module["job"].demo())


def test_demo_is_small(module: dict):
    demo = module["job"].demo()
    with torch.device("meta"):
        detector = demo.detector.build(6)
    assert sum(p.numel() for p in detector.parameters()) < 10e6
    assert demo.train.workers == 2
