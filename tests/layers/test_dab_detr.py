"""DAB-DETR's own parts: anchors, patterns, fixed centres, attention as large as a box; how it starts."""

import math

import pytest
import torch
from torch.testing import assert_close

from qdet.convert import fix_centers
from qdet.detectors import DABDETR, DABDETRConfig
from qdet.detectors.dab_detr.model import modulate
from qdet.detectors.dab_detr.queries import Queries
from qdet.errors import ConfigError
from qdet.layers.reference_points import to_pixels
from qdet.types import PaddedSizes, Predictions
from tests.support.recordings import Features

SIZES = PaddedSizes(torch.tensor([[64, 96], [48, 64]]), (64, 96))


def small(**settings) -> DABDETR:
    config = DABDETRConfig(
        anchors=5, width=16, heads=2, encoder_layers=1, decoder_layers=3, ffn=32, detections=5, **settings
    )
    return DABDETR(config, Features((12,), (32,)), 4).double()


def shaken(detector: DABDETR) -> DABDETR:
    with torch.no_grad():
        for p in detector.parameters():
            p += 0.1 * torch.randn_like(p)
    return detector


def predict(detector: DABDETR) -> tuple[Predictions, ...]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 12, 2, 3, dtype=torch.float64, generator=generator)
    return detector.decode([features], SIZES)


def total(stages: tuple[Predictions, ...]) -> torch.Tensor:
    return sum(s.logits.square().sum() + s.boxes_xyxy.sin().sum() for s in stages)


def test_attention_reaches_as_far_as_the_box():
    place = torch.ones(1, 1, 4)
    sizes = torch.tensor([[[0.0, math.log(3)]]])  # sigmoids 1/2 and 3/4
    got = modulate(place, sizes, torch.tensor([[[0.3, 0.4, 0.25, 0.5]]]))
    assert_close(got, torch.tensor([[[1.5, 1.5, 2.0, 2.0]]]))  # y by height, then x by width


def test_fresh_boxes_are_the_anchors_in_every_layer():
    detector = small().eval()
    anchors = detector.decoder.queries.boxes.weight.sigmoid().expand(2, -1, -1)
    with torch.no_grad():
        for stage in predict(detector):
            assert_close(stage.boxes_xyxy, to_pixels(anchors, SIZES.sizes_hw), rtol=1e-6, atol=0)
            assert_close(stage.logits.sigmoid().mean().item(), 0.01, rtol=0.5, atol=0)


def test_starts_as_the_authors_code_does():
    torch.manual_seed(0)
    detector = DABDETRConfig(patterns=3, encoder_layers=2, decoder_layers=2).build(91)
    decoder = detector.decoder
    assert_close(detector.class_head.bias, torch.full((91,), -4.59512), atol=1e-5, rtol=0)
    assert not decoder.box_head.layers[-1].weight.any()
    assert not decoder.box_head.layers[-1].bias.any()
    for layer in (*detector.encoder.layers, *decoder.layers):
        assert layer.ffn.update.activation.weight.tolist() == [0.25]
    bound = math.sqrt(6 / (512 + 256))
    first = decoder.position_head.layers[0].weight
    assert 0.99 * bound < first.abs().max() <= bound
    for drawn in (decoder.queries.boxes.weight, decoder.queries.patterns.weight):
        assert drawn.std().item() == pytest.approx(1, abs=0.1)


def test_a_prediction_reaches_the_box_head_one_layer_back():
    """What a layer reads of boxes is detached, what its prediction moves is not."""
    detector = shaken(small()).eval()
    deltas = []
    detector.decoder.box_head.register_forward_hook(lambda _, args, out: deltas.append(out))
    boxes = predict(detector)[-1].boxes_xyxy
    of_updates = torch.autograd.grad(boxes.square().sum(), deltas[1::2], allow_unused=True)
    assert of_updates[0] is None
    assert of_updates[1].abs().min() > 0


def test_every_pattern_stands_at_every_anchor():
    queries = Queries(anchors=4, patterns=3, width=8)
    contents, boxes = queries(2)
    assert contents.shape == (2, 12, 8)
    for i in range(12):
        pattern, anchor = divmod(i, 4)
        assert contents[1, i].equal(queries.patterns.weight[pattern])
        assert boxes[1, i].equal(queries.boxes.weight[anchor].sigmoid())


@pytest.mark.parametrize("patterns", [0, 2])
def test_fixed_centers_predict_the_same_and_only_do_not_learn(patterns):
    free, fixed = shaken(small(patterns=patterns)), small(patterns=patterns, fixed_centers=True)
    fixed.load_state_dict(fix_centers(free.state_dict()), strict=True)
    total(predict(free)).backward()
    total(predict(fixed)).backward()
    gradients = {name: p.grad for name, p in free.named_parameters()}
    gradients["decoder.queries.boxes.weight"] = gradients["decoder.queries.boxes.weight"][:, 2:]
    for name, p in fixed.named_parameters():
        assert_close(p.grad, gradients[name], msg=name)
    for ours, theirs in zip(predict(fixed), predict(free), strict=True):
        assert ours.boxes_xyxy.equal(theirs.boxes_xyxy)
        assert ours.logits.equal(theirs.logits)


def test_fixed_centers_stay_where_they_were_drawn():
    detector = small(fixed_centers=True)
    queries = detector.decoder.queries
    before, sizes = queries.centers.clone(), queries.boxes.weight.detach().clone()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.1, weight_decay=0.1)
    total(predict(shaken(detector))).backward()
    optimizer.step()
    assert queries.centers.equal(before)
    assert (queries.boxes.weight != sizes).all()
    many = Queries(4000, 8, fixed_centers=True).centers.sigmoid()
    assert_close(
        many.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)[:, 0],
        torch.tensor([0.25, 0.5, 0.75]),
        atol=0.03,
        rtol=0,
    )


def copied(into: DABDETR, source: DABDETR) -> DABDETR:
    """Give a detector all weights of another that it has as well."""
    names = into.state_dict().keys()
    into.load_state_dict({name: t for name, t in source.state_dict().items() if name in names})
    return into.eval()


def assert_same(one: DABDETR, other: DABDETR) -> None:
    with torch.no_grad():
        for a, b in zip(predict(one), predict(other), strict=True):
            assert_close(a.logits, b.logits)
            assert_close(a.boxes_xyxy, b.boxes_xyxy)


def halve(detector: DABDETR) -> DABDETR:
    """Make every anchor half as wide and high as the image, and predict that size for attention too."""
    detector.decoder.queries.boxes.weight.data[:, 2:] = 0
    if detector.decoder.size_head is not None:
        detector.decoder.size_head.layers[-1].weight.data.zero_()
        detector.decoder.size_head.layers[-1].bias.data.zero_()
    return detector


def test_without_modulation_attention_is_as_where_sizes_agree():
    whole = halve(shaken(small(updated=False)))
    plain = small(updated=False, modulated=False)
    assert {n for n in whole.state_dict() if n not in plain.state_dict()} == {
        f"decoder.size_head.layers.{i}.{part}" for i in range(2) for part in ("weight", "bias")
    }
    assert_same(copied(plain, whole), whole.eval())


def embedded_anchors(detector: DABDETR) -> list[torch.Tensor]:
    """Return what each layer's positions are computed from."""
    seen = []
    hook = detector.decoder.position_head.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    total(predict(detector)).backward()
    hook.remove()
    return seen


def test_anchors_that_are_not_updated_are_read_by_every_layer():
    moving = shaken(small()).eval()
    fixed = copied(small(updated=False), moving)
    for detector, same in ((moving, False), (fixed, True)):
        first, *later = embedded_anchors(detector)
        assert [first.equal(x) for x in later] == [same] * 2


def test_centres_alone_are_boxes_whose_size_nothing_reads():
    boxes = halve(shaken(small(updated=False, modulated=False))).eval()
    boxes.decoder.position_head.layers[0].weight.data[:, 16:] = 0
    weights = boxes.state_dict()
    weights["decoder.position_head.layers.0.weight"] = weights["decoder.position_head.layers.0.weight"][
        :, :16
    ]
    weights["decoder.queries.boxes.weight"] = weights["decoder.queries.boxes.weight"][:, :2]
    points = small(updated=False, anchor_dims=2)
    points.load_state_dict(weights)
    assert_same(points.eval(), boxes)


def test_centres_move_from_layer_to_layer():
    detector = shaken(small(anchor_dims=2)).eval()
    seen = embedded_anchors(detector)
    assert [x.shape[-1] for x in seen] == [16] * 3
    assert not seen[0].equal(seen[1])
    assert detector.decoder.queries.boxes.weight.grad.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchors": 0}, "--detector.anchors must be at least 1, got 0"),
        ({"patterns": -1}, "--detector.patterns must be 0 or more, got -1"),
        ({"query_temperature": 0.0}, "--detector.query-temperature must be above 0"),
        ({"anchor_dims": 2, "fixed_centers": True}, "--detector.fixed-centers leaves nothing to learn"),
        ({"width": 250}, "--detector.width 250 must split evenly into 8"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        DABDETRConfig(**settings)
