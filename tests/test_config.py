"""A tree of settings through its flat form and JSON, and back."""

import json
from dataclasses import replace

import pytest

from qdet.backbones import SwinConfig
from qdet.config import flatten, override, restore
from qdet.detectors import AdaMixerConfig
from qdet.errors import ConfigError
from qdet.job import Job

JOBS = [
    Job(name="plain"),
    Job(name="demo").demo(),
    override(
        Job(name="other", detector=replace(AdaMixerConfig(), backbone=SwinConfig())),
        {
            "optim.lr_multipliers": (("backbone", 0.1), ("norm", 0.5)),
            "train.steps": 7,
            "data.augment.sizes": (1, 2),
        },
    ),
]


def through_json(job):
    return json.loads(json.dumps(flatten(job)))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_comes_back_from_its_flat_form(job):
    assert restore(Job, through_json(job)) == job


def test_missing_settings_keep_their_default():
    flat = {"name": "a", "optim": "OptimConfig", "optim.lr": 1e-3}
    assert restore(Job, flat) == override(Job(name="a"), {"optim.lr": 1e-3})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"detector": "os.system"}, r"detector: 'os\.system' is none of .*AdaMixerConfig"),
        ({"train.warp": 9}, "TrainConfig has no setting warp"),
        ({"detector.queries": 0}, "--detector.queries"),
    ],
)
def test_settings_unknown_to_this_version_are_refused(changed, said):
    with pytest.raises(ConfigError, match=said):
        restore(Job, through_json(JOBS[0]) | changed)


def test_a_whole_node_and_paths_below_it_are_changed_in_this_order():
    job = override(JOBS[0], {"detector.backbone.drop_path": 0.25, "detector.backbone": SwinConfig(size="t")})
    assert job.detector.backbone == SwinConfig(size="t", drop_path=0.25)


def test_a_path_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"OptimConfig has no 'lrr'\. Did you mean lr\? It has: lr, "):
        override(JOBS[0], {"optim.lrr": 1.0})
