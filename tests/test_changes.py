"""What a resumed run may change: every setting of every kind, through JSON and back."""

import json

import pytest

from qdet.changes import FIXED, LEARNING, Changes, changes, describe_allowed_changes
from qdet.config import flatten, override
from qdet.job import Job

JOB = Job(name="x")


def recorded(job: Job) -> dict[str, object]:
    """The settings as a checkpoint's job.json brings them back."""
    return json.loads(json.dumps(flatten(job), default=str))


def test_the_same_job_has_no_changes():
    same = changes(recorded(JOB), JOB)
    assert same.refused == ()
    assert same.learning == ()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.seed", 5, "--train.seed is 5, it was 0"),
        ("train.batch_size", 32, "--train.batch-size is 32, it was 16"),
        ("data.augment.flip", 0.0, "--data.augment.flip is 0.0, it was 0.5"),
        ("detector.queries", 50, "--detector.queries is 50, it was 100"),
    ],
)
def test_changing_what_a_checkpoint_depends_on_is_refused(path, value, said):
    found = changes(recorded(JOB), override(JOB, {path: value}))
    assert [str(change) for change in found.refused] == [said]
    assert found.learning == ()


@pytest.mark.parametrize(
    ("path", "value"),
    [("optim.lr", 1e-3), ("train.epochs", 24), ("train.precision", "fp32"), ("loss.l1", 2.0)],
)
def test_data_and_schedule_may_change_and_are_reported(path, value):
    found = changes(recorded(JOB), override(JOB, {path: value}))
    assert found.refused == ()
    assert [change.path for change in found.learning] == [path]


def test_a_job_from_before_pipelines_had_names_resumes_as_detr():
    before = recorded(JOB) | {"data.augment.resize": "pillow"}
    del before["data.augment.pipeline"], before["data.pad"]
    assert changes(before, JOB).refused == ()
    mmdet = override(JOB, {"data.augment.pipeline": "mmdet"})
    assert [str(change) for change in changes(before, mmdet).refused] == [
        "--data.augment.pipeline is mmdet, it was detr",
        "--data.augment.resize is opencv, it was pillow",
    ]
    assert changes(recorded(mmdet), mmdet).refused == ()
    same = override(JOB, {"data.augment.resize": "pillow"})
    assert changes(recorded(JOB), same).refused == ()


def test_what_auto_becomes_is_compared_once_it_is_known():
    auto = override(JOB, {"train.precision": "auto"})
    assert changes(recorded(JOB), auto) == Changes((), ())
    assert [str(c) for c in changes(recorded(JOB), override(auto, {"train.precision": "fp32"})).learning] == [
        "--train.precision is fp32, it was bf16"
    ]


def test_how_it_is_computed_may_change():
    now = override(
        JOB,
        {"train.workers": 4, "train.zero": 3, "train.accumulation": 2, "data.readers": 7,
         "eval.batch_size": 9, "track.experiment": "other", "store.path": "/elsewhere",
         "detector.backbone.weights": None},
    )  # fmt: skip
    found = changes(recorded(JOB), now)
    assert (found.refused, found.learning) == ((), ())


def test_settings_of_another_version_do_not_count():
    then = recorded(JOB)
    del then["detector.queries"]
    assert changes({**then, "detector.forgotten": 3}, JOB).refused == ()


def test_every_named_group_exists_and_is_reported():
    paths = flatten(JOB)
    for group in (*FIXED, *LEARNING):
        assert any(path == group or path.startswith(f"{group}.") for path in paths), group
    assert "--train.batch-size" in describe_allowed_changes()
