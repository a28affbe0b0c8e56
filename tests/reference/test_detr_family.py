"""DETR and its kin against numbers recorded from the authors' code.

Each module of `tests.support.official` says how its detectors are made; what all of them must reproduce is
here.
"""

import importlib
import pkgutil

import pytest
import torch

from qdet.boxes import xyxy_to_cxcywh
from qdet.convert import convert, rename
from qdet.detectors import Detector
from qdet.losses import counted_objects
from qdet.types import ExtraQueries, Predictions, Proposals, Reconstructions
from tests.support import official
from tests.support.recordings import Official, Recording, cases, read, targets_of

OFFICIAL: dict[str, Official] = {}
for module in pkgutil.iter_modules(official.__path__, f"{official.__name__}."):
    OFFICIAL |= importlib.import_module(module.name).OFFICIAL

NAMES = {"loss_ce": "classification", "loss_bbox": "l1", "loss_giou": "giou"}


class Case:
    """A recording and the detector that must reproduce it."""

    def __init__(self, r: Recording) -> None:
        self.r, self.official = r, OFFICIAL[r.facts["detector"]]
        self.detector: Detector = self.official.build(r.config)
        self.detector.load_state_dict(convert(r.weights(), self.official.table), strict=True)
        self.official.prepare(self.detector.eval().to(r.dtype), r)
        self.loss = self.official.loss.build(r.classes)

    def predict(self, extra: ExtraQueries | None = None) -> tuple[Predictions, ...]:
        inputs = () if extra is None else (extra,)
        return self.detector.decode(self.r.features(), self.r.sizes, *inputs)

    def shares(self, p: Predictions) -> torch.Tensor:
        """Boxes as recorded: centre and size as shares of the image, or corners in pixels."""
        if "cxcywh" not in self.r.facts["formats"]["boxes"]:
            return p.boxes_xyxy
        extent = self.r.sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)
        return xyxy_to_cxcywh(p.boxes_xyxy) / extent

    def losses(self, case: str):
        extra, truth = self.official.denoise(self.r, case)
        targets, stages = targets_of(self.r, case), self.predict(extra)
        count = counted_objects(targets, stages[-1].logits.shape[1], self.official.loss.per)
        return self.loss(stages, targets, self.r.sizes_hw, normalizer=max(count, 1), truth=truth)


@pytest.fixture(scope="module", params=cases(set(OFFICIAL)))
def case(request) -> Case:
    return Case(read(request.param))


@pytest.fixture(autouse=True)
def _no_gradient_yet(case) -> None:
    case.detector.zero_grad()


def decoded(predictions: tuple[Predictions, ...]) -> list[Predictions]:
    return [p for p in predictions if not isinstance(p, Proposals | Reconstructions)]


def test_every_layer_matches_the_recording(case):
    r = case.r
    with torch.no_grad():
        predictions = case.predict()
    stages = decoded(predictions)
    assert len(stages) == r.layers
    for i, stage in enumerate(stages):
        r.close(stage.logits, r[f"outputs/layer{i}/logits"], "outputs/logits")
        r.close(case.shares(stage), r[f"outputs/layer{i}/boxes"], "outputs/boxes")
    for name in ("enc", "interm"):
        if f"outputs/{name}/logits" in r.tensors:
            proposals = predictions[0]
            assert isinstance(proposals, Proposals)
            r.close(proposals.logits, r[f"outputs/{name}/logits"], "outputs/logits")
            r.close(case.shares(proposals), r[f"outputs/{name}/boxes"], f"outputs/{name}/boxes")


def test_intermediates_match_the_recording(case):
    r = case.r
    numbers = case.official.watch(case.detector, r)
    with torch.no_grad():
        case.predict()
    ours = numbers()
    recorded = {k.removeprefix("intermediates/") for k in r.tensors if k.startswith("intermediates/")}
    missing = {k for k in recorded - ours.keys() if not k.endswith(case.official.unwatched or "/nothing")}
    assert not missing
    for name in sorted(recorded & ours.keys()):
        want = r[f"intermediates/{name}"]
        if want.dtype == torch.bool:
            assert ours[name].equal(want), name
        else:
            kind = "/".join(part for part in name.split("/") if not part.startswith(("layer", "level")))
            r.close(ours[name], want, f"intermediates/{kind}")


@pytest.mark.parametrize("objects", ["a", "b", "c"])
def test_matching_equals_the_recording(case, objects):
    r, targets = case.r, targets_of(case.r, objects)
    with torch.no_grad():
        predictions = case.predict()
    *of_proposals, of_stages = case.loss.match(predictions, targets, r.sizes_hw)
    tokens = "enc" if f"loss_{objects}/enc/image0/pred_idx" in r.tensors else "interm"
    named = [(tokens, a, 0, predictions[0]) for a in of_proposals]
    named += [(f"layer{i}", of_stages, i, p) for i, p in enumerate(decoded(predictions))]
    for name, assignment, row, p in named:
        queries, first = p.logits.shape[1], 0
        for image, count in enumerate(targets.counts):
            here = assignment.queries[row] // queries == image
            got = zip(
                (assignment.queries[row, here] % queries).tolist(),
                (assignment.objects[row, here] - first).tolist(),
                strict=True,
            )
            where = f"loss_{objects}/{name}/image{image}"
            want = zip(r[f"{where}/pred_idx"].tolist(), r[f"{where}/target_idx"].tolist(), strict=True)
            assert set(got) == set(want)
            first += count


def stage_of(key: str, layers: int) -> str:
    """The stage of one of the authors' terms: `loss_ce_1`, `tgt_loss_ce`, `loss_ce_dn_0`, `loss_ce_enc`."""
    _term, *words = key.removeprefix("tgt_").split("_")[1:]
    layer = next((word for word in words if word.isdigit()), str(layers - 1))
    if words[:1] in (["enc"], ["interm"]):
        return "proposals"
    return f"denoising/stage{layer}" if key.startswith("tgt_") or "dn" in words else f"stage{layer}"


@pytest.mark.parametrize("objects", ["a", "b", "c"])
def test_losses_match_the_recording(case, objects):
    r, official = case.r, dict(case.r.facts["losses"][objects])
    losses = case.losses(objects)
    tolerance = 1e-6 if r.dtype == torch.float64 else 1e-4
    weighted = "already multiplied" in r.facts["formats"].get("loss", "")
    for key, want in official.items():
        name = next((n for n in NAMES if key.removeprefix("tgt_").startswith(n)), None)
        if name is not None:
            got = losses.terms[f"{stage_of(key, r.layers)}/{NAMES[name]}"].item()
            got /= 1 if weighted else r.facts["weight_dict"][key]
        elif key == "total":
            got = losses.total.item()
        elif key == "class_error" and "pos_acc" in losses.terms and sum(targets_of(r, objects).counts):
            got = 100 - 100 * losses.terms["pos_acc"].item()
        else:
            continue
        assert got == pytest.approx(want, rel=tolerance, abs=tolerance), key


@pytest.fixture
def two_threads():
    """One thread adds up the gradient of a norm's weight row by row: in float32 too coarse for 272 rows."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("objects", ["a", "b", "c"])
def test_gradients_match_the_recording(case, objects):
    r = case.r
    if objects not in r.facts["grad_norms"]:
        pytest.skip("no gradients recorded of this case")
    case.losses(objects).total.backward()
    gradients = {name: p.grad for name, p in case.detector.named_parameters()}
    renamed = ((rename(k, case.official.table), norm) for k, norm in r.facts["grad_norms"][objects].items())
    official = {name: norm for name, norm in renamed if name != ""}  # those that the table drops have none
    assert gradients.keys() == official.keys()
    # In float32 a ReLU whose input is zero but for rounding may be open or shut, which moves whole gradients.
    tolerance = 1e-6 if r.dtype == torch.float64 else 1e-2
    for name, norm in official.items():
        got = 0.0 if gradients[name] is None else gradients[name].norm().item()
        assert got == pytest.approx(norm or 0.0, rel=tolerance, abs=tolerance), name
    prefix = f"loss_{objects}/grads/"
    for key in [k for k in r.tensors if k.startswith(prefix)]:
        r.close(gradients[rename(key.removeprefix(prefix), case.official.table)], r[key], key)


def test_detections_match_the_recording(case):
    r = case.r
    original = r["inputs/orig_sizes_hw"]
    with torch.no_grad():
        found = case.detector.detect(case.predict()[-1], r.sizes_hw, original)
    for i in range(len(original)):
        where = f"outputs/detections/image{i}"
        order = found.scores[i].argsort(descending=True, stable=True)[: len(r[f"{where}/scores"])]
        r.close(found.scores[i][order], r[f"{where}/scores"], "outputs/detections/scores")
        assert found.labels[i][order].equal(r[f"{where}/labels"])
        r.close(found.boxes_xyxy[i][order], r[f"{where}/boxes"], "outputs/detections/boxes")
