"""DETR's switches: the first attention between queries left out, and classes scored on their own."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.detectors import DETR, DETRConfig
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.losses import DETR_LOSS, FOCAL_DETR_LOSS
from qdet.types import PaddedSizes, Predictions
from tests.support.recordings import Features

SIZES = PaddedSizes(torch.tensor([[64, 96], [48, 64]]), (64, 96))


def small(**settings) -> DETR:
    config = DETRConfig(queries=5, width=16, heads=2, encoder_layers=1, decoder_layers=3, ffn=32, **settings)
    return DETR(config, Features((12,), (32,)), 4).double().eval()


def predict(detector: DETR) -> tuple[Predictions, ...]:
    features = torch.randn(2, 12, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return detector.decode([features], SIZES)


def test_first_attention_between_queries_without_content_can_be_skipped():
    """It mixes values of zero content: without biases nothing comes of it, whatever its weights are."""
    whole, skipping = small(), small(skip_first=True)
    own = skipping.state_dict()
    left = {name for name in whole.state_dict() if name not in own}
    assert left == {
        f"decoder.layers.0.self_attention.{name}"
        for name in ("norm.weight", "norm.bias", "update.attention.out.weight", "update.attention.out.bias")
    } | {f"decoder.layers.0.self_attention.update.attention.qkv_{part}" for part in ("weight", "bias")}
    skipping.load_state_dict({name: t for name, t in whole.state_dict().items() if name in own})
    for ours, theirs in zip(predict(skipping), predict(whole), strict=True):
        assert_close(ours.logits, theirs.logits)
        assert_close(ours.boxes_xyxy, theirs.boxes_xyxy)
    whole.decoder.layers[0].self_attention.update.attention.qkv_bias.data += 0.5
    whole.decoder.layers[0].self_attention.update.attention.out.weight.data += torch.randn(16, 16)
    assert not torch.allclose(predict(whole)[0].logits, predict(skipping)[0].logits)


def test_sigmoid_scores_are_those_of_pairs():
    detector = small(scores="sigmoid")
    assert_close(detector.class_head.bias, torch.full((4,), -math.log(99), dtype=torch.float64))
    last = predict(detector)[-1]
    assert last.logits.shape == (2, 5, 4)
    found = detector.detect(last, SIZES.sizes_hw, SIZES.sizes_hw)
    want = last.logits.sigmoid().flatten(1).sort(dim=1, descending=True)
    assert_close(found.scores, want.values[:, :5])
    assert found.labels.equal(want.indices[:, :5] % 4)
    assert_close(found.boxes_xyxy[0, 0], last.boxes_xyxy[0, want.indices[0, 0] // 4])


def test_loss_must_score_as_the_detector_does():
    Job(name="x", detector=DETRConfig(scores="sigmoid"), loss=FOCAL_DETR_LOSS)
    with pytest.raises(
        ConfigError, match=r"--loss\.scores softmax does not go with DETRConfig: give sigmoid"
    ):
        Job(name="x", detector=DETRConfig(scores="sigmoid"), loss=DETR_LOSS)
