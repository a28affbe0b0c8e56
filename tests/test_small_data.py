"""Settings for small datasets: valid for any dataset and job, and as the reasons given with them say."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.adamixer_swin import job as swin
from jobs.anchor_detr_r50 import job as anchor
from jobs.detr_r50 import job as detr
from qdet.config import override
from qdet.small_data import EPOCHS, DataFacts, choose_settings, values

CELLS = DataFacts(images=205, classes=3, crowd=25, side=103.0, size_hw=(480, 640))
FACTS = st.builds(
    DataFacts,
    images=st.integers(1, 200_000),
    classes=st.integers(1, 1200),
    crowd=st.integers(1, 2000),
    side=st.floats(0.5, 5000),
    size_hw=st.tuples(st.integers(16, 9000), st.integers(16, 9000)),
)


JOBS = [swin, swin.demo(), detr, detr.demo(), anchor.demo()]


@settings(max_examples=150, deadline=None)
@given(facts=FACTS, job=st.sampled_from(JOBS), workers=st.integers(1, 9), most=st.sampled_from([320, 800]))
def test_any_dataset_gets_settings_that_a_job_takes(facts, job, workers, most):
    chosen = choose_settings(facts, job, workers=workers, most=most)
    assert chosen == choose_settings(facts, job, workers=workers, most=most)
    made = override(job, values(chosen))
    train, augment = made.train, made.data.augment
    assert train.batch_size <= max(1, facts.images)
    assert train.batch_size % train.most_workers == 0
    assert EPOCHS[0] <= train.epochs <= EPOCHS[1]
    assert train.steps is None
    assert augment.short_side_of_evaluation <= max(most, 32)
    assert 1 <= train.epochs // train.eval_every <= 19
    assert made.detector.queries >= job.detector.queries
    assert all(setting.reason for setting in chosen.values())


def test_settings_follow_the_data_in_the_right_direction():
    def of(**changes):
        return values(choose_settings(replace(CELLS, **changes), swin.demo(), workers=2, most=320))

    size = "data.augment.eval_size"
    assert of(side=60.0)[size] > of()[size] > of(side=300.0)[size]
    assert of(side=5.0)[size] == 320
    assert of(crowd=60)["detector.queries"] > of()["detector.queries"] > of(crowd=2)["detector.queries"]
    assert of(images=2000)["train.epochs"] < of()["train.epochs"] < of(images=60)["train.epochs"]
    assert of(images=20)["train.batch_size"] < of()["train.batch_size"] == 8
    assert of(images=20)["optim.lr"] < of()["optim.lr"]


def test_the_settings_of_blood_cells_are_the_documented_ones():
    chosen = values(choose_settings(CELLS, swin.demo(), workers=2, most=320))
    assert chosen["data.augment.eval_size"] == 256
    assert chosen["detector.queries"] == 70
    assert chosen["data.augment.sizes"] == (224,)
    assert chosen["data.augment.crop_sizes"] == (224, 288)
    assert chosen["data.augment.crop_range"] == (192, 288)
    assert (chosen["train.batch_size"], chosen["train.epochs"]) == (8, 34)
    assert chosen["optim.lr"] == pytest.approx(0.001 / 2**0.5)
    assert chosen["detector.position_scale"] == pytest.approx(1 / 416)
