"""Sweeps: what could not be trained is refused before the first trial, and what could is not."""

import re
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.detectors import AdaMixerConfig, AnchorDETRConfig
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.search import Choice, Each, LogUniform, Uniform
from qdet.trials import LIMIT

JOB = Job(name="job")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"detector.mixing": Each(("acm-asm", "asm-amc"))},
            "detector.mixing='asm-amc': detector.mixing takes one of 'acm-asm', ",
        ),
        ({"train.zero": Choice((1, 4))}, "train.zero=4: train.zero takes one of 0, 1, 2, 3"),
        ({"detector.queries": Choice((100, "300"))}, "detector.queries='300': detector.queries takes int"),
        ({"detector.queries": Uniform(100.0, 300.0)}, "detector.queries=100.0: detector.queries takes int"),
        ({"optim.lr": Choice((None,))}, "optim.lr=None: optim.lr takes float"),
        ({"train.steps": Choice((None, 10, 0.5))}, "train.steps=0.5: train.steps takes int or None"),
        ({"optim.drop_epochs": Choice(((8, 11), (8, 11.5)))}, "(8, 11.5): optim.drop_epochs takes tuple[int"),
        (
            {"detector.backbone": Choice((AdaMixerConfig(),))},
            "detector.backbone takes HuggingFaceConfig or ResNetConfig or",
        ),
    ],
)
def test_values_of_another_type_are_refused_with_what_is_allowed(space, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        Sweep(space=space).check(JOB)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"detector.heads": Each((8, 7))}, "detector.heads=7 cannot be: --detector."),
        ({"optim.lr": Uniform(0.0, 1e-3)}, "optim.lr=0.0 cannot be: --optim.lr must be above 0"),
        ({"optim.ema_decay": Uniform(0.9, 1.0)}, "optim.ema_decay=1.0 cannot be: --optim.ema-decay"),
        (
            {"detector.sampling": Each(("3d", "c5")), "detector.pyramid": Each(("none", "fpn"))},
            "detector.sampling='c5', detector.pyramid='fpn' cannot be: --detector.pyramid needs all levels",
        ),
    ],
)
def test_values_that_a_dataclass_refuses_are_refused_with_its_message(space, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        Sweep(space=space).check(JOB)


def test_values_valid_only_in_combination_are_accepted():
    Sweep(space={"train.batch_size": Each((12,)), "train.workers": Each((4, 6))}).check(JOB)
    with pytest.raises(ConfigError, match=r"train\.batch_size=12 cannot be: --train\.batch-size"):
        Sweep(space={"train.batch_size": Each((12,))}).check(JOB)


def test_of_very_large_spaces_each_value_is_tried_by_itself():
    names = [f.name for f in fields(AdaMixerConfig) if f.type is int and f.name not in ("heads", "groups")]
    space = {f"detector.{name}": Choice((64, 128, 256, 512)) for name in names[:6]}
    assert 4 ** len(space) >= LIMIT
    Sweep(space={**space, "optim.lr": LogUniform(1e-5, 1e-3)}).check(JOB)
    with pytest.raises(ConfigError, match=r"detector\.heads=3 cannot be"):
        Sweep(space={**space, "detector.heads": Choice((3, 8))}).check(JOB)


counts = st.lists(st.integers(-2, 20), min_size=1, unique=True).map(tuple)


@settings(deadline=None)  # time depends on the load of the machine
@given(counts, counts)
def test_a_space_passes_where_every_combination_can_be_made(points, patterns):
    job = Job(name="anchors", detector=AnchorDETRConfig())
    sweep = Sweep(space={"detector.points": Each(points), "detector.patterns": Choice(patterns)})
    if all(n > 0 for n in points + patterns):
        sweep.check(job)
    else:
        with pytest.raises(ConfigError, match=r"must be at least 1"):
            sweep.check(job)


@pytest.mark.parametrize(
    "empty",
    [
        lambda: Uniform(1.0, 1.0),
        lambda: Uniform(float("nan"), 1.0),
        lambda: LogUniform(0.0, 1.0),
        lambda: LogUniform(2.0, 1.0),
        lambda: Choice(()),
        lambda: Each(()),
    ],
)
def test_an_empty_search_space_is_refused(empty):
    with pytest.raises(ConfigError, match=r"^(Log)?Uniform\(|^(Choice|Each)\(\(\)\)"):
        empty()
