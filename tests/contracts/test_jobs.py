"""Every job file: it says what it is, and each of its jobs can be built, searched and made small."""

import os
import re
import shlex
from pathlib import Path

import pytest

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching.cli import choose_job, parse
from qdet.launching.commands.epoch_order import settings_of
from qdet.launching.ray_backend.submit import submit
from qdet.recipes import Recipe, read
from qdet.search import Each
from qdet.training.optim import parameter_groups
from qdet.zoo import load_job
from tests.support.recipes import FILES, JOBS, MODELS, RECIPES, REPO
from tests.support.shapes import shapes_of

VARIANTS = [(file, variant) for file, recipe in FILES.items() for variant in recipe.variants]
TABLES = [(file, table) for file, recipe in FILES.items() for table in recipe.tables]


@pytest.fixture(params=JOBS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def job(name: str) -> Job:
    return MODELS[name]


@pytest.fixture
def recipe(name: str):
    return RECIPES[name]


def test_there_are_jobs():
    assert MODELS.keys() == RECIPES.keys()


def test_file_is_an_executable_whose_commands_parse(path: Path):
    assert os.access(path, os.X_OK)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env python\n")
    doc = text.split('"""')[1]
    assert "https://arxiv.org/abs/" in doc
    recipe = FILES[path.stem]
    assert recipe.job.name == path.stem
    commands = re.findall(rf"python jobs/{path.name}(.*)", doc)
    assert commands
    for flags in commands:
        parse(recipe, shlex.split(flags))


def test_job_is_the_published_recipe(job: Job, recipe):
    assert (job.detector.queries, job.train.epochs) == (recipe.queries, recipe.epochs)
    assert (job.optim.drop_epochs, job.train.batch_size) == (recipe.drops, recipe.batch)
    assert (job.optim.lr, job.optim.weight_decay, job.optim.clip_norm) == (recipe.lr, 1e-4, recipe.clip)
    assert job.optim.warmup_steps == recipe.warmup
    augment = job.data.augment
    assert (augment.crop, augment.max_size) == (recipe.crop, 1333)
    assert (min(augment.sizes), max(augment.sizes)) == recipe.sizes


def test_every_parameter_setting_of_the_recipe_names_a_parameter(job: Job, recipe):
    detector = shapes_of(job.detector, 80)
    groups = parameter_groups(detector.named_parameters(), job.optim)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    exempt = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    assert bool(exempt) == bool(job.optim.no_decay)
    assert not any(name.startswith("neck") for name in exempt)
    of_backbone = [rate for name, rate in rates.items() if name.startswith("backbone.")]
    assert of_backbone == [pytest.approx(recipe.lr * recipe.backbone_factor)] * len(of_backbone)
    assert recipe.lr in rates.values()


def test_demo_is_small(job: Job):
    demo = job.demo()
    detector = shapes_of(demo.detector, 6)
    assert sum(p.numel() for p in detector.parameters()) < 10e6
    assert demo.train.workers == 2


def test_sweep_names_settings_of_every_variant(path: Path):
    recipe = FILES[path.stem]
    for variant in (None, *recipe.variants):
        job = recipe.chosen(variant)
        recipe.sweep.check(job)
        recipe.sweep.check(job.demo())


@pytest.mark.parametrize(("file", "variant"), VARIANTS)
def test_variant_is_chosen_by_its_flag_and_changed_by_others(file: str, variant: str):
    recipe = FILES[file]
    name = recipe.variants[variant].name
    assert re.fullmatch(rf"\w+_{variant.removeprefix('hybrid_')}(_\w+)?", name)
    assert choose_job(recipe, [f"--variant={variant}", "--demo"]) == (MODELS[name].demo(), [])
    changed = parse(recipe, ["--optim.lr", "0.5", "--variant", variant])
    assert changed == override(MODELS[name], {"optim.lr": 0.5})


@pytest.mark.parametrize(("file", "variant"), VARIANTS)
def test_variant_changes_settings_to_values_of_their_types(file: str, variant: str):
    changes = FILES[file].variants[variant].changes
    Sweep(space={path: Each((value,)) for path, value in changes.items()}).check(FILES[file].job)


@pytest.mark.parametrize(("file", "name"), TABLES)
def test_every_row_of_a_table_can_be_built(file: str, name: str):
    recipe, table = FILES[file], FILES[file].tables[name]
    assert parse(recipe, ["--table", name]) == override(recipe.job, {"name": f"{file}_ablation_{name}"})
    for job in (recipe.job, recipe.job.demo()):
        sweep = table.sweep(job)
        sweep.check(job)
        assert sweep.runs == len(table.rows)
        for value in table.rows:
            assert shapes_of(override(job, {table.setting: value}).detector, 80)


@pytest.mark.parametrize(("file", "name"), TABLES)
def test_the_row_of_the_plain_job_has_its_ap(file: str, name: str):
    recipe, table = FILES[file], FILES[file].tables[name]
    here = recipe.job
    for part in table.setting.split("."):
        here = getattr(here, part)
    assert table.published(here).ap == recipe.published.ap


OLD_NAMES = dict(
    re.findall(r"^\| `jobs/(\w+)\.py` \| `(.+?)` \|$", (REPO / "docs/jobs.md").read_text(), re.M)
)
"""Former job files, and what the documentation says they are now."""


def test_documented_commands_are_those_that_replace_former_files():
    now = {
        name: f"jobs/{file}.py {flags}"
        for file, recipe in FILES.items()
        for name, flags in recipe.names()
        if flags
    }
    assert OLD_NAMES.items() <= now.items()
    variants = {variant.name for recipe in FILES.values() for variant in recipe.variants.values()}
    rows = {name for name in RECIPES if "_ablation_" in name}
    assert variants | FILES.keys() | rows == RECIPES.keys()


@pytest.mark.parametrize(
    "ask",
    [
        read,
        lambda path: submit(str(path)),
        lambda path: settings_of(path, []),
        lambda path: load_job(path.stem),
    ],
    ids=["read", "submit", "order", "load_job"],
)
def test_a_former_file_is_answered_with_its_command(ask, monkeypatch):
    monkeypatch.chdir(REPO)
    for name in ("detr_r101_dc5", "adamixer_r50_ablation_points_in"):
        with pytest.raises(ConfigError, match=re.escape(f"jobs/{name}.py is now: {OLD_NAMES[name]}")):
            ask(Path("jobs") / f"{name}.py")
    with pytest.raises(ConfigError, match=r"Did you mean jobs/detr_r50\.py\?"):
        ask(Path("jobs/detr_r5.py"))
    with pytest.raises(ConfigError, match=r"Did you mean jobs/detr_r50\.py --variant r101_dc5\?"):
        ask(Path("jobs/detr_r101_dc.py"))


def test_a_file_beside_that_does_not_run_does_not_keep_others_from_answering(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "base.py").write_text(
        "from qdet.job import Job\nfrom qdet.recipes import Variant\n"
        'job = Job(name="base")\nvariants = {"b": Variant(name="base_b", changes={})}\n'
    )
    with pytest.raises(ConfigError, match=r"base_b\.py is now: .*base\.py --variant b$"):
        read(tmp_path / "base_b.py")
    with pytest.raises(ConfigError, match=r"zzz\.py: there is no such file$"):
        read(tmp_path / "zzz.py")


def test_a_recipe_without_choices_says_so():
    with pytest.raises(ConfigError, match="--variant x: plain has no variants"):
        Recipe(job=Job(name="plain")).chosen("x")
    with pytest.raises(ConfigError, match="--table x: plain has no tables"):
        Recipe(job=Job(name="plain")).chosen(table="x")
