"""The zoo: every job has a row, and no row drifts from what the authors' models are."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from qdet import zoo
from qdet.config import override
from qdet.detectors.complexity import count_parameters
from qdet.launching.cli import choose_job, parse
from qdet.recipes import Published
from qdet.zoo import counts
from qdet.zoo.comparators import COMPARATORS
from qdet.zoo.listing import align, cells, quoted_row
from tests.support.recipes import FILES, MODELS, RECIPES, REPO
from tests.support.shapes import shapes_of

# What was counted in the authors' classes, and our counts, agree to this.
MACS_TOLERANCE = 0.02


PUBLISHED = {model.job.name: model for model in zoo.models()}


@cache
def row_of(name: str) -> zoo.Row:
    return zoo.row(PUBLISHED[name])


def test_every_job_is_in_the_zoo_and_has_a_recipe():
    assert [model.job.name for model in zoo.models()] == list(PUBLISHED)
    assert PUBLISHED.keys() == MODELS.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_command_trains_the_model(name: str):
    file, *flags = shlex.split(PUBLISHED[name].command)
    recipe = FILES[Path(file).stem]
    job, rest = choose_job(recipe, flags)
    if rest:  # that all flags together choose the same variant: tests/contracts/test_jobs.py
        job = parse(recipe, flags)
    assert override(job, {"name": name}) == PUBLISHED[name].job == MODELS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_row_is_the_authors_model(name: str):
    """Operations are counted anew where they were counted in the authors' classes; all of them take long."""
    model, recipe = PUBLISHED[name], RECIPES[name]
    detector = shapes_of(model.job.detector, model.published.classes)
    assert count_parameters(detector) + model.published.constants == recipe.params
    assert row_of(name).params == recipe.params
    assert (model.job.detector.queries, model.job.train.epochs) == (recipe.queries, recipe.epochs)
    if recipe.gmacs is not None:
        macs = counts.count(model).macs
        assert row_of(name).macs == macs
        assert macs / 1e9 == pytest.approx(recipe.gmacs, rel=MACS_TOLERANCE)


PAPERS = [
    *(model.published for model in PUBLISHED.values()),
    *(quoted.published for quoted in COMPARATORS),
]


@pytest.mark.parametrize("paper", [p for p in PAPERS if p.columns], ids=lambda p: f"{p.ap}")
def test_the_six_aps_of_a_row_are_in_their_order(paper: Published):
    """Looser IoU finds more, larger objects are found better: what a slip of columns would break."""
    ap50, ap75, small, medium, large = (float("nan") if x is None else x for x in paper.columns)
    assert not ap50 < paper.ap + 10
    assert not paper.ap - 3 > ap75
    assert not ap75 >= ap50
    assert not small >= medium
    assert not medium >= large
    assert not small >= paper.ap
    assert not large <= paper.ap


def test_columns_are_there_for_the_models_whose_paper_gives_them():
    six = {name for name, model in PUBLISHED.items() if model.published.columns}
    families = (
        "adamixer",
        "detr_",
        "deformable",
        "conditional",
        "efficient",
        "sparse_rcnn",
        "dynamic",
        "smca",
    )
    assert all(any(name.startswith(family) for name in six) for family in families)
    assert {name for name in PUBLISHED if name.startswith("deformable")} <= six
    assert six >= {"adamixer_swin", "adamixer_r50_300_24ep", "detr_r50_dc5_plus", "smca_r101_multi_scale"}


def test_quoted_rows_name_their_table_and_are_not_counted():
    rows = [quoted_row(quoted) for quoted in COMPARATORS]
    assert {"Faster R-CNN", "FCOS", "ATSS", "TSD", "EfficientDet-D7", "UP-DETR", "TSP-RCNN"} <= {
        row.detector for row in rows
    }
    assert all(row.quoted and row.params is None and row.source != "the paper" for row in rows)
    text = align([cells(row) for row in rows]).splitlines()
    assert all(f"quoted: {row.source}" in line for row, line in zip(rows, text, strict=True))


def test_readme_has_the_numbers_of_the_zoo():
    lines = re.findall(
        r"^\| `(\w+)\.py` \| .+ \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$",
        (REPO / "README.md").read_text(),
        re.M,
    )
    assert len(lines) == 14
    assert f"prints all {len(PUBLISHED)} models" in " ".join((REPO / "README.md").read_text().split())
    for name, params, gmacs, ap in lines:
        row = row_of(name)
        assert (f"{row.params:,}", f"{row.macs / 1e9:.1f}", str(row.paper_ap)) == (params, gmacs, ap), name


RECORDED = {
    "adamixer_dx101_300q": "adamixer_x101_dcn",
    "adamixer_r101_300q": "adamixer_r101",
    "adamixer_r50_100q": "adamixer_r50",
    "adamixer_r50_300q": "adamixer_r50_300",
    "adamixer_swin_s_300q": "adamixer_swin",
    "anchor_detr_dc5_r50": "anchor_detr_r50_dc5",
    "anchor_detr_r101": "anchor_detr_r101",
    "anchor_detr_r50": "anchor_detr_r50",
    "conditional_detr_dc5_r50": "conditional_detr_r50_dc5",
    "conditional_detr_r101": "conditional_detr_r101",
    "conditional_detr_r50": "conditional_detr_r50",
    "dab_detr_dc5_r50": "dab_detr_r50_dc5",
    "dab_detr_r101": "dab_detr_r101",
    "dab_detr_r50": "dab_detr_r50",
    "dab_detr_r50_3pat": "dab_detr_r50_3pat",
    "deformable_detr_r50": "deformable_detr_r50",
    "deformable_detr_r50_refine": "deformable_detr_r50_refine",
    "deformable_detr_r50_single_scale": "deformable_detr_r50_single_scale",
    "deformable_detr_r50_single_scale_dc5": "deformable_detr_r50_single_scale_dc5",
    "deformable_detr_r50_two_stage": "deformable_detr_r50_two_stage",
    "detr_dc5_r50": "detr_r50_dc5",
    "detr_r101": "detr_r101",
    "detr_r50": "detr_r50",
    "dino_r50_4scale": "dino_r50",
    "dino_r50_5scale": "dino_r50_5scale",
    "dino_swinl_4scale": "dino_swin_l",
    "dn_detr_dc5_r50": "dn_detr_r50_dc5",
    "dn_detr_dc5_r50_3pat": "dn_detr_r50_dc5_3pat_12ep",
    "dn_detr_r101": "dn_detr_r101",
    "dn_detr_r50": "dn_detr_r50",
    "smca_detr_r50_new_multi_scale": "smca_r50_multi_scale_conv",
    "smca_detr_r50_single_scale": "smca_r50",
    "sparse_rcnn_r101_100pro": "sparse_rcnn_r101_100",
    "sparse_rcnn_r101_300pro": "sparse_rcnn_r101_300",
    "sparse_rcnn_r50_100pro": "sparse_rcnn_r50_100",
    "sparse_rcnn_r50_300pro": "sparse_rcnn_r50_300",
}
"""Names of the recorded counts to jobs. mmdetection's port of Sparse R-CNN, which trains the weights of its
frozen norms, has no job; `tests/layers/test_region_decoder.py` counts it."""


def test_recipes_have_the_counts_of_the_authors_models(parity_dir):
    recorded = json.loads((parity_dir / "param_counts.json").read_text())["models"]
    assert {name: RECIPES[RECORDED[name]].params for name in recorded.keys() & RECORDED.keys()} == {
        name: model["params"] for name, model in recorded.items() if name in RECORDED
    }


@pytest.mark.slow
def test_the_file_of_counts_is_what_is_counted():
    command = [sys.executable, "-m", "qdet", "zoo", "--count"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == counts.FILE.read_text()


def test_a_model_that_the_file_lacks_is_counted(monkeypatch):
    model = PUBLISHED["detr_r50"]
    held = counts.recorded()
    monkeypatch.setattr(counts, "recorded", dict)
    assert counts.cost_of(model) == held["detr_r50"]
    assert held.keys() == PUBLISHED.keys()


def test_the_command_prints_all_rows():
    command = [sys.executable, "-m", "qdet", "zoo"]
    text = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    rows = json.loads(
        subprocess.run([*command, "--json"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    )
    wanted = {"name", "job", "params", "macs", "paper_params", "paper_macs", "paper_ap"}
    lines = text.splitlines()[1:]
    assert [row["name"] for row in rows if not row["quoted"]] == list(PUBLISHED)
    for row, line in zip(rows, lines, strict=True):
        assert row.keys() >= wanted
        assert line.startswith(row["name"])
        assert ("quoted: " in line) == row["quoted"]
        assert row["quoted"] or (row["macs"] > 0 and row["params"] == RECIPES[row["name"]].params)
