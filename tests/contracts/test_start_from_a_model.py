"""Every detector can start from a model of other classes: rows move by name, bit by bit."""

import copy
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from qdet.checkpoint.class_rows import class_axes
from qdet.checkpoint.fit import check_fit, match_parts
from qdet.detectors import DeformableDETRConfig, DetectorConfig, DETRConfig
from qdet.errors import CheckpointError, ConfigError
from qdet.job import StoreConfig
from qdet.training.freeze import freeze
from tests.support.detector_variants import ONE_EACH, VARIANTS, shaken

PER_CLASS = re.compile(r"class_head|\blabels\.weight")
THERE = ("cat", "dog", "bird", "fish")
CONFIGS: dict[str, DetectorConfig] = {name: VARIANTS[name][0] for name in ONE_EACH} | {
    "one stage": DeformableDETRConfig().demo(),
    "two stages": replace(DeformableDETRConfig().demo(), refine=True, two_stage=True),
}


def build(config: DetectorConfig, classes: int, seed: int):
    torch.manual_seed(seed)
    return config.build(classes)


build_once = cache(build)


def start(config: DetectorConfig, names: tuple[str, ...], there: tuple[str, ...] = THERE):
    """The model's tensors, the job's own initialisation, and what the job then starts from."""
    source = shaken(copy.deepcopy(build_once(config, len(there), 1))).state_dict()
    own = build_once(config, len(names), 2)
    fresh, detector = own.state_dict(), copy.deepcopy(own)
    fit = check_fit(config, there, config, names, source="model")
    fit.load(detector, source, source="model")
    return source, fresh, detector.state_dict(), fit


NEW_CLASSES = [("dog", "horse", "cat"), ("fish", "x", "dog", "y"), ("u", "v")]
STARTS = [
    pytest.param(variant, names, id=f"{variant}-{len(names)}", marks=() if default else pytest.mark.slow)
    for number, variant in enumerate(CONFIGS)
    for which, names in enumerate(NEW_CLASSES)
    for default in [number == 0 or which == number % len(NEW_CLASSES)]
]
"""The first detector with all lists of classes, each other one with one of them by default."""


@pytest.mark.parametrize(("variant", "names"), STARTS)
def test_rows_of_common_names_are_kept_and_all_others_are_the_jobs_own(variant, names):
    config: Any = CONFIGS[variant]
    source, fresh, loaded, _ = start(config, names)
    heads = 0
    for name, tensor in loaded.items():
        assert tensor.shape == fresh[name].shape
        if not PER_CLASS.search(name):
            assert torch.equal(tensor, source[name]), name
            continue
        heads += 1
        for row in range(len(tensor)):
            if getattr(config, "two_stage", False) and name.startswith(f"heads.{config.decoder_layers}."):
                expected = source[name][0] if row == 0 else fresh[name][row]
            elif row >= len(names):  # no object, or an unknown one
                expected = source[name][len(THERE) + row - len(names)]
            elif names[row] in THERE:
                expected = source[name][THERE.index(names[row])]
            else:
                expected = fresh[name][row]
            assert torch.equal(tensor[row], expected), (name, row)
    assert heads >= 2


@pytest.mark.parametrize("variant", CONFIGS)
def test_the_tensors_that_grow_with_the_classes_are_the_class_heads(variant):
    config = CONFIGS[variant]
    names = {name for name in build(config, 3, 0).state_dict() if PER_CLASS.search(name)}
    assert class_axes(config) == dict.fromkeys(names, 0)


@pytest.mark.parametrize("variant", [name for name, config in CONFIGS.items() if "queries" in vars(config)])
def test_another_number_of_queries_starts_only_them_afresh(variant):
    """Anchor DETR's queries are anchors times patterns: it has no such setting."""
    config: Any = CONFIGS[variant]
    more = replace(config, queries=config.queries + 7)
    fit = check_fit(config, THERE, more, THERE, source="model")
    source, fresh = shaken(build(config, 4, 1)).state_dict(), build(more, 4, 2).state_dict()
    detector = build(more, 4, 2)
    fit.load(detector, source, source="model")
    for name, tensor in detector.state_dict().items():
        same = source[name].shape == fresh[name].shape
        assert torch.equal(tensor, (source if same else fresh)[name]), name
        assert same == (name not in fit.queries)


@pytest.mark.parametrize("variant", CONFIGS)
def test_other_sizes_are_refused_with_the_settings_that_differ(variant):
    config: Any = CONFIGS[variant]
    name = next(n for n in ("width", "feature_width") if hasattr(config, n))
    wider = replace(config, **{name: 2 * getattr(config, name)})
    said = (
        rf"--detector\.width is {2 * getattr(config, name)}, there {getattr(config, name)}.*differ in shape"
    )
    with pytest.raises(CheckpointError, match=said):
        check_fit(config, THERE, wider, THERE, source="model")


def test_another_detector_is_refused_by_name():
    one, other = CONFIGS[ONE_EACH[0]], CONFIGS[ONE_EACH[1]]
    names = [type(c).__name__.removesuffix("Config") for c in (one, other)]
    with pytest.raises(CheckpointError, match=rf"a model of {names[0]}, the job trains {names[1]}"):
        check_fit(one, THERE, other, THERE, source="model")


def test_what_is_kept_is_said():
    config = CONFIGS[ONE_EACH[0]]
    assert start(config, THERE)[3].describe() == []
    said = start(config, ("dog", "horse"))[3].describe()
    assert said == ["class head: kept dog; new horse; left out cat, bird, fish"]
    numbered = start(config, ("a", "b"), there=("0", "1"))
    assert "names no classes" in numbered[3].describe()[0]
    assert all(torch.equal(t, numbered[0][n]) for n, t in numbered[2].items())


def test_parts_alone_are_taken_and_the_rest_is_the_jobs_own():
    """As DAB-DETR's paper starts DETR from learned queries, which it then keeps as they are."""
    config = DETRConfig().demo()
    source = shaken(build(config, 4, 1)).state_dict()
    fresh, detector = build(config, 4, 2).state_dict(), build(config, 4, 2)
    fit = check_fit(config, THERE, config, THERE, source="model")
    fit.load(detector, source, source="model", parts=(r"^decoder\.position\.",))
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, (source if name == "decoder.position.weight" else fresh)[name]), name
    assert not torch.equal(source["decoder.position.weight"], fresh["decoder.position.weight"])
    freeze(detector, [r"^decoder\.position\."])
    held = {name for name, p in detector.named_parameters() if not p.requires_grad}
    assert held == {"decoder.position.weight"}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("querys",), r"--store\.init-parts querys is in no tensor's name"),
        (("(",), "is no regular expression"),
    ],
)
def test_parts_that_name_nothing_are_refused(parts, said):
    with pytest.raises(ConfigError, match=said):
        match_parts(build(DETRConfig().demo(), 4, 1).state_dict(), parts)
    with pytest.raises(ConfigError, match=r"--store\.init-parts are parts of a model"):
        StoreConfig(init_parts=parts)
