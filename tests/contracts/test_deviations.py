"""Recipes beside their authors': the page lists every difference, and none is without a reason."""

import pytest

from qdet import zoo
from qdet.config import override
from qdet.errors import ConfigError
from qdet.training.optim import parameter_groups
from qdet.zoo.authors import OFFICIAL
from qdet.zoo.deviation_page import render
from qdet.zoo.deviations import compare, find_all
from tests.support.recipes import MODELS, RECIPES, REPO
from tests.support.shapes import shapes_of

JOBS = [model.job for model in zoo.models()]


def test_the_page_is_what_the_jobs_and_the_table_of_configurations_say():
    said = (REPO / "docs/deviations.md").read_text()
    assert render(JOBS) == said, "qdet zoo --deviations > docs/deviations.md"


def test_every_job_and_variant_has_its_official_recipe():
    assert OFFICIAL.keys() == {name for name in MODELS if "_ablation_" not in name}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("adamixer_swin", {"optim.lr": 5e-5}, "learning rate is 5e-05 here and 2.5e-05"),
        ("adamixer_swin", {"optim.no_decay": ("bias",)}, "without weight decay is bias here and norms but"),
        ("adamixer_r50", {"optim.ema_decay": 0.9}, "averaged weights is 0.9 here and 0"),
        ("adamixer_r50", {"loss.giou": 1.0}, "loss weights.* is 2, 5, 1 here and 2, 5, 2"),
        ("adamixer_r50", {"data.augment.sizes": (600, 800)}, "short side is 600, 800 here and 800, 800"),
        ("deformable_detr_r50", {"optim.lr_multipliers": ()}, "learning rate of the backbone is 0.0002"),
        (
            "deformable_detr_r50",
            {"optim.lr_multipliers": ((r"^backbone", 0.1),)},
            "learning rate of sampling offsets and reference points is 0.0002 here and 2e-05",
        ),
        ("detr_r50", {"train.batch_size": 128}, "images of a step is 128 here and 64"),
        ("detr_r50", {"optim.drop_epochs": (300,)}, "drops after epochs is 300 here and 400"),
        ("detr_r50", {"loss.match_l1": 2.0}, "matching weights is 1, 2, 2 here"),
        ("dab_detr_r50", {"detector.dropout": 0.1}, "dropout is 0.1 here and 0"),
        ("sparse_rcnn_r50_300", {"optim.warmup_steps": 10}, "warm-up is 10 steps from 0.01 here and 1000"),
        ("smca_r50", {"data.augment.crop": False}, "random crops is no here and yes"),
        ("conditional_detr_r50", {"train.epochs": 60}, "epochs is 60 here and 50"),
        ("anchor_detr_r50", {"optim.clip_norm": 1.0}, "largest norm of the gradient is 1 here and 0.1"),
        ("anchor_detr_r50", {"optim.betas": (0.9, 0.98)}, "betas is 0.9, 0.98 here"),
        ("efficient_detr_r50", {"train.epochs": 50}, "epochs is 50 here and 36"),
    ],
)
def test_a_difference_without_a_reason_is_an_error_that_names_it(name, changes, said):
    jobs = [override(job, changes) if job.name == name else job for job in JOBS]
    with pytest.raises(ConfigError, match=f"^{name}: .*{said}"):
        render(jobs)


def test_what_is_known_to_differ_is_found():
    found = {(d.job, d.setting): (d.theirs, d.ours) for d in find_all(JOBS)}
    assert found["sparse_rcnn_r50_300", "steps"] == ("270,000", "266,112")
    assert ("adamixer_r50", "filter") not in found
    assert found["detr_r50", "filter"] == ("pillow", "pillow where it shrinks, else opencv")
    assert ("detr_r50_dc5", "padding") not in found
    assert found["dab_detr_r50_dc5_fixxy", "centers"][1] == "fixed"
    assert {job for job, setting in found if setting == "precision"} == {
        name for name in OFFICIAL if not name.startswith(("efficient", "dynamic"))
    }


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_recipes_agree_with_the_tests_own_list(name):
    """Two transcriptions of the same configurations, made apart."""
    official, recipe = OFFICIAL[name], RECIPES[name]
    pairs = [
        (official.lr, recipe.lr),
        (official.backbone_lr, recipe.lr * recipe.backbone_factor),
        (official.clip_norm, recipe.clip),
        (official.epochs, recipe.epochs),
        (official.drops, recipe.drops),
        (official.sizes, recipe.sizes),
        (official.crop, recipe.crop),
    ]
    assert all(theirs is None or theirs == pytest.approx(ours) for theirs, ours in pairs)
    warmup = "none" if recipe.warmup == 0 else f"{recipe.warmup} steps"
    assert official.warmup is None or official.warmup.startswith(warmup)


@pytest.mark.parametrize("name", ["deformable_detr_r50", "detr_r50", "sparse_rcnn_r50_100", "adamixer_swin"])
def test_rates_by_group_are_those_of_the_optimizer(name):
    job, official = MODELS[name], OFFICIAL[name]
    detector = shapes_of(job.detector, 80)
    groups = parameter_groups(detector.named_parameters(), job.optim)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    for parameter, rate in rates.items():
        if parameter.startswith("backbone."):
            assert rate == pytest.approx(official.backbone_lr)
        elif "sampling_offsets" in parameter or "reference_points" in parameter:
            assert rate == pytest.approx(official.sampling_lr or official.lr)
        else:
            assert rate == pytest.approx(official.lr)
    assert not {"lr", "backbone_lr", "sampling_lr"} & {d.setting for d in compare(job, official)}
