"""The zoo: every job has a row, and no row drifts from what the authors' models are."""

import json
import subprocess
import sys

import pytest
from recipes import JOBS, RECIPES, REPO

from qdet import zoo

# What was counted in the authors' classes, and our counts, agree to this.
MACS_TOLERANCE = 0.02


def test_every_job_is_in_the_zoo_and_has_a_recipe():
    published = [p.job for p in zoo.PUBLISHED]
    assert len(published) == len(set(published))
    assert set(published) == {path.stem for path in JOBS} == RECIPES.keys()


@pytest.mark.parametrize("published", zoo.PUBLISHED, ids=lambda p: p.job)
def test_row_is_the_authors_model(published: zoo.Published):
    row, recipe = zoo.row(published), RECIPES[published.job]
    assert row.params == recipe.params
    assert (row.queries, row.epochs) == (recipe.queries, recipe.epochs)
    if recipe.gmacs is not None:
        assert row.macs / 1e9 == pytest.approx(recipe.gmacs, rel=MACS_TOLERANCE)
    assert row.macs > 0


def test_counts_of_whole_checkpoints(parity_dir):
    """The recorded counts of the authors' models that have the size of a job."""
    recorded = json.loads((parity_dir / "param_counts.json").read_text())["models"]
    for name, model in recorded.items():
        if name in RECIPES and not name.startswith("adamixer"):
            assert RECIPES[name].params == model["params"], name


@pytest.mark.slow
def test_the_command_prints_all_rows():
    command = [sys.executable, "-m", "qdet", "zoo"]
    text = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    rows = json.loads(
        subprocess.run([*command, "--json"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    )
    wanted = {"name", "job", "params", "macs", "paper_params", "paper_macs", "paper_ap"}
    assert len(rows) == len(zoo.PUBLISHED) == len(text.splitlines()) - 1
    for row, line in zip(rows, text.splitlines()[1:], strict=True):
        assert row.keys() >= wanted
        assert line.startswith(row["name"])
