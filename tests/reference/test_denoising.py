"""Denoising against numbers recorded from the authors' code: noise, queries, masks, what comes of them."""

import importlib

import pytest
import torch

from qdet.boxes import xyxy_to_cxcywh
from qdet.convert import convert, rename
from qdet.detectors import DINO
from qdet.layers.attention.visibility import hide_groups
from qdet.layers.denoising.apply import denoise
from qdet.layers.denoising.queries import start_boxes
from qdet.layers.reference_points import inverse_sigmoid
from qdet.types import Predictions, Reconstructions
from tests.support.recorded_noise import alone, denoised, denoising_of
from tests.support.recordings import Official, Recording, cases, hooked, read, targets_of

OFFICIAL: dict[str, Official] = {}
for name in ("dn_detr", "dino"):
    OFFICIAL |= importlib.import_module(f"tests.support.official.{name}").OFFICIAL
CASES = pytest.mark.parametrize("objects", ["a", "b", "c"])


@pytest.fixture(params=cases(set(OFFICIAL)))
def r(request) -> Recording:
    return read(request.param)


@pytest.fixture(params=cases({name for name in OFFICIAL if name.startswith("dino")}))
def dino(request) -> Recording:
    return read(request.param)


def build(r: Recording):
    official = OFFICIAL[r.facts["detector"]]
    detector = official.build(r.config)
    detector.load_state_dict(convert(r.weights(), official.table), strict=True)
    return detector.eval().to(r.dtype)


def shares(r: Recording, p: Predictions) -> torch.Tensor:
    return xyxy_to_cxcywh(p.boxes_xyxy) / r.sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)


@CASES
def test_groups_and_slots_are_those_of_the_authors(r, objects):
    facts = r.facts["denoising"][objects]
    extra, truth = denoised(r, objects)
    images, queries = extra.labels.shape
    assert queries == facts["queries"]
    if queries:
        assert truth.groups.tolist() == [facts["groups"]] * images
    assert int((~extra.filled).sum()) == facts.get("padded_slots", 0)
    assert truth.dropped == 0


@CASES
def test_noised_labels_and_boxes_match_the_recording(r, objects):
    where = f"dn_{objects}"
    extra, truth = denoised(r, objects)
    at = r[f"{where}/image_idx"], r[f"{where}/slot_idx"]
    assert extra.labels[at].equal(r[f"{where}/noised_labels"])
    r.close(extra.boxes[at], r[f"{where}/noised_boxes_cxcywh"], f"{where}/noised_boxes_cxcywh")
    assert extra.filled[at].all()
    assert int(extra.filled.sum()) == len(at[0])
    first = torch.tensor([0, *targets_of(r, objects).counts]).cumsum(0)
    positive = r.tensors.get(f"{where}/positive", torch.ones(len(at[0]), dtype=torch.bool))
    wanted = zip(
        (at[0] * extra.labels.shape[1] + at[1])[positive].tolist(),
        (first[at[0]] + r[f"{where}/object_idx"])[positive].tolist(),
        strict=True,
    )
    assert set(wanted) == set(zip(truth.queries.tolist(), truth.objects.tolist(), strict=True))


@CASES
def test_input_queries_and_mask_match_the_recording(r, objects):
    where, detector = f"dn_{objects}", build(r)
    extra, _ = denoised(r, objects)
    starts = []
    detector.decoder.layers[0].register_forward_pre_hook(lambda _, args: starts.append(args))
    with torch.no_grad():
        detector.decode(r.features(), r.sizes, extra)
    contents, among = starts[0][0], starts[0][1]
    label = r[f"{where}/input_query_label"]
    r.close(contents[:, : label.shape[1]], label, f"{where}/input_query_label")
    anchors = inverse_sigmoid(extra.boxes, 1e-3)
    recorded = r[f"{where}/input_query_bbox_unsigmoid"][:, : anchors.shape[1]]
    r.close(anchors, recorded, f"{where}/input_query_bbox_unsigmoid")
    r.close(start_boxes(extra, eps=1e-3), recorded.sigmoid(), f"{where}/noised_boxes_cxcywh")
    own = contents.shape[1] - extra.labels.shape[1]
    mask = hide_groups(extra.groups, own)
    hidden = torch.zeros(own, own, dtype=torch.bool) if mask is None else mask
    assert hidden.equal(r[f"{where}/attn_mask"].expand_as(hidden))
    assert among[1] is None if mask is None else among[1].equal(mask)


@CASES
def test_every_layer_of_the_extra_queries_matches_the_recording(r, objects):
    extra, _ = denoised(r, objects)
    detector = build(r)
    normed = hooked(detector.decoder.norm)
    with torch.no_grad():
        predictions = detector.decode(r.features(), r.sizes, extra)
    found = [p for p in predictions if isinstance(p, Reconstructions)]
    assert len(found) == r.layers
    where = f"dn_{objects}"
    for i, p in enumerate(found):
        if f"{where}/layer{i}/logits" in r.tensors:
            r.close(p.logits, r[f"{where}/layer{i}/logits"], f"{where}/logits")
            r.close(shares(r, p), r[f"{where}/layer{i}/boxes"], f"{where}/boxes")
        else:
            assert p.logits.shape[1] == 0
    if f"{where}/hs" in r.tensors:
        r.close(torch.stack(normed), r[f"{where}/hs"], f"{where}/hs")


@CASES
def test_own_queries_are_the_same_with_and_without_extra_ones(r, objects):
    extra, _ = denoised(r, objects)
    detector = build(r).double()
    r.dtype = torch.float64
    with torch.no_grad():
        own = detector.decode(r.features(), r.sizes)
        both = detector.decode(r.features(), r.sizes, extra)
    both = [p for p in both if not isinstance(p, Reconstructions)]
    for a, b in zip(own, both, strict=True):
        torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(a.boxes_xyxy, b.boxes_xyxy, rtol=1e-12, atol=1e-12)


class AllAtOnce:
    """The whole batch in one process, grouped by image, with the noise of one image on each rank."""

    def __init__(self, r: Recording, objects: str) -> None:
        self.r, self.objects = r, objects
        self.targets, noise = alone(r, objects)
        config = denoising_of(r.config, grouping="image")
        self.extra, self.truth = denoise(config, self.targets, noise, r.sizes_hw, r.classes)
        self.detector: DINO = build(r)
        self.predictions = self.detector.decode(r.features(), r.sizes, self.extra)

    def total(self) -> torch.Tensor:
        loss = OFFICIAL[self.r.facts["detector"]].loss.build(self.r.classes)
        normalizer = max(sum(self.targets.counts), 1)
        return loss(
            self.predictions, self.targets, self.r.sizes_hw, normalizer=normalizer, truth=self.truth
        ).total


@CASES
def test_groups_by_image_are_those_of_one_image_per_rank(dino, objects):
    batch = AllAtOnce(dino, objects)
    assert batch.truth.groups.tolist() == dino.facts["one_image_per_rank"][objects]["groups"]
    found = [p for p in batch.predictions if isinstance(p, Reconstructions)]
    for image in range(len(dino.sizes_hw)):
        for i, p in enumerate(found):
            where = f"ranks_{objects}/image{image}/layer{i}"
            if f"{where}/logits" not in dino.tensors:
                assert not batch.extra.filled[image].any()
                continue
            logits, boxes = dino[f"{where}/logits"], dino[f"{where}/boxes"]
            dino.close(p.logits[image, : len(logits)], logits, "dn_a/logits")
            dino.close(shares(dino, p)[image, : len(boxes)], boxes, "dn_a/boxes")


@CASES
def test_one_process_trains_as_one_image_per_rank(dino, objects):
    """The loss, and the gradient of every parameter, as averaged over the ranks of the authors' training.

    They clamp the objects of a rank at one, this the objects of the batch: without any, theirs is divided by
    the number of ranks.
    """
    batch, facts = AllAtOnce(dino, objects), dino.facts["one_image_per_rank"][objects]
    ranks = 1 if sum(batch.targets.counts) else len(facts["ranks"])
    total = batch.total() / ranks
    tolerance = 1e-6 if dino.dtype == torch.float64 else 1e-4
    assert total.item() == pytest.approx(facts["total"], rel=tolerance)
    total.backward()
    table = OFFICIAL[dino.facts["detector"]].table
    gradients = {name: p.grad for name, p in batch.detector.named_parameters()}
    tolerance = 1e-6 if dino.dtype == torch.float64 else 1e-2  # see `test_gradients_match_the_recording`
    for key, norm in facts["grad_norms"].items():
        gradient = gradients[rename(key, table)]
        got = 0.0 if gradient is None else gradient.norm().item()
        assert got == pytest.approx(norm or 0.0, rel=tolerance, abs=tolerance), key
