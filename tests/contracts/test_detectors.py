"""What every detector promises: a new one in `DetectorConfig` is tested by existing."""

import copy
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from qdet.boxes import cxcywh_to_xyxy
from qdet.detectors import (
    DINO,
    AdaMixerConfig,
    AnchorDETRConfig,
    ConditionalDETRConfig,
    ConvSMCAConfig,
    DeformableDETRConfig,
    Detector,
    DetectorConfig,
    DINOConfig,
    DynamicDETRConfig,
    EfficientDETRConfig,
    SparseRCNNConfig,
)
from qdet.detectors.adamixer import sampling
from qdet.layers import bilinear
from qdet.layers.attention import deformable
from qdet.layers.heads import Head
from qdet.layers.pixels import normalize
from qdet.types import Branches, PaddedSizes, Predictions, Proposals, Targets
from tests.support.detector_variants import (
    CLASSES,
    DEFAULT,
    ONE_EACH,
    SIZES,
    VARIANTS,
    images,
    objects,
    shaken,
)
from tests.support.recipes import REPO
from tests.support.recordings import hooked


@pytest.fixture(params=[pytest.param(v, marks=() if v in DEFAULT else pytest.mark.slow) for v in VARIANTS])
def variant(request) -> str:
    return request.param


@pytest.fixture
def config(variant) -> DetectorConfig:
    return VARIANTS[variant][0]


@pytest.fixture
def detector(variant) -> Detector:
    """The variant with fresh weights, the same for every test: copying them is quicker than drawing them."""
    return copy.deepcopy(build_once(variant))


@cache
def build_once(variant: str) -> Detector:
    return VARIANTS[variant][0].build(CLASSES)


@pytest.fixture
def loss(variant):
    """The job's total loss of predictions."""
    criterion = VARIANTS[variant][1].build(CLASSES)
    return lambda stages, targets: criterion(stages, targets, SIZES, normalizer=1).total


def decoded(predictions: tuple[Predictions, ...]) -> list[Predictions]:
    return [p for p in predictions if not isinstance(p, Proposals | Branches)]


def test_every_detector_has_a_job():
    assert {type(config) for config, _ in VARIANTS.values()} == set(get_args(DetectorConfig))


@pytest.mark.parametrize("switch", ["sampling", "mixing", "adaptive", "position", "pyramid"])
def test_every_value_of_adamixers_switches_is_tried_by_default(switch):
    default = [VARIANTS[name][0] for name in DEFAULT]
    tried = {getattr(c, switch) for c in default if isinstance(c, AdaMixerConfig)}
    assert tried == set(get_args(get_type_hints(AdaMixerConfig)[switch]))


def test_builds_a_detector_and_its_demo_keeps_the_class(detector, config):
    assert isinstance(detector, Detector)
    assert isinstance(detector.backbone, torch.nn.Module)
    assert type(config.demo()) is type(config)


def test_every_stage_predicts_every_query(detector, config, variant):
    predictions = detector(images(), SIZES)
    assert isinstance(predictions, tuple)
    stages = decoded(predictions)
    assert stages
    assert predictions[-len(stages) :] == tuple(stages)  # an encoder's proposals come first
    classes = CLASSES + (VARIANTS[variant][1].scores == "softmax")
    for stage in predictions:
        counted = isinstance(stage, Proposals | Branches)
        queries = stage.logits.shape[1] if counted else config.queries
        assert stage.logits.shape == (2, queries, classes)
        assert stage.boxes_xyxy.shape == (2, queries, 4)
        assert stage.boxes_xyxy.dtype == torch.float32
        assert (stage.boxes_xyxy[..., 2:] >= stage.boxes_xyxy[..., :2]).all()


def may_idle(config: DetectorConfig, name: str) -> bool:
    """Whether the gradient of a parameter may be zero for images as small as these.

    RoIAlign reads a box from the one level that fits its size: no box in 128 pixels is large enough for any
    but the finest, so that no one reads what makes the coarser ones. Queries that hold nothing at first give
    the projections of their content nothing to learn from in the first attention between them.
    """
    if name == "labels.weight":  # read by extra queries alone
        return True
    from_nothing = isinstance(config, ConditionalDETRConfig) or getattr(config, "patterns", None) == 0
    content = r"decoder\.layers\.0\.self_attention\.update\.((query|key)_content|value)\.weight"
    if from_nothing and re.fullmatch(content, name):
        return True
    coarse = r"(backbone\.layer[234]|neck\.lateral\.[123]|pyramid\.(lateral|output)\.[123])\."
    return getattr(config, "sampling", None) == "roi-align" and re.match(coarse, name) is not None


def test_every_trainable_parameter_gets_a_gradient(detector, config, loss):
    stages = shaken(detector)(images(), SIZES)
    trainable = {name: p for name, p in detector.named_parameters() if p.requires_grad}
    for counts in ((3, 2), (4, 0), (0, 0)):  # objects in both images, in one, in none
        detector.zero_grad()
        loss(stages, objects(*counts)).backward(retain_graph=True)
        assert not [name for name, p in trainable.items() if p.grad is None or not p.grad.isfinite().all()]
        if sum(counts):
            idle = [name for name, p in trainable.items() if not p.grad.any()]
            assert not [name for name in idle if not may_idle(config, name)]
    assert not [name for name, p in detector.named_parameters() if not p.requires_grad and p.grad is not None]


def test_fresh_weights_give_a_gradient_too(detector, loss):
    loss(detector(images(), SIZES), objects(3, 2)).backward()
    assert not [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]


def test_more_objects_than_queries(detector, loss):
    stages = detector(images(), SIZES)
    assert loss(stages, objects(stages[-1].logits.shape[1] + 5, 1)).isfinite()


def test_pixels_under_the_padding_do_not_matter(detector):
    detector.eval()
    batch = images()
    dirty = batch.clone()
    dirty[0, :, :, 96:] = 255
    dirty[1, :, 100:] = 7
    with torch.no_grad():
        for a, b in zip(detector(batch, SIZES), detector(dirty, SIZES), strict=True):
            assert a.logits.equal(b.logits)
            assert a.boxes_xyxy.equal(b.boxes_xyxy)


def test_predictions_for_an_image_do_not_depend_on_the_rest_of_its_batch(detector):
    """Padded to the same size, an image predicts the same alone, first or last."""
    shaken(detector).eval()
    batch = images()
    with torch.no_grad():
        together = detector(batch, SIZES)[-1]
        swapped = detector(batch.flip(0), SIZES.flip(0))[-1]
        alone = detector(batch[1:], SIZES[1:])[-1]
    for a, b in (
        (swapped.boxes_xyxy.flip(0), together.boxes_xyxy),
        (alone.boxes_xyxy, together.boxes_xyxy[1:]),
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(alone.logits, together.logits[1:], rtol=1e-3, atol=1e-3)


SEES_PADDING = {
    AdaMixerConfig: "GroupNorm takes its statistics over the padded map, as in the authors' code",
    DINOConfig: "GroupNorm takes its statistics over the padded map, as in Deformable DETR",
    DeformableDETRConfig: "GroupNorm takes its statistics over the padded map, as in the authors' code",
    EfficientDETRConfig: "GroupNorm takes its statistics over the padded map, as in Deformable DETR",
    AnchorDETRConfig: "keys and GroupNorm are means over padded cells too, as in the authors' code",
    SparseRCNNConfig: "neither the feature pyramid nor RoIAlign knows of padding, as in the authors' code",
    ConvSMCAConfig: "its encoder's convolutions reach into padded cells, as in the authors' code",
    DynamicDETRConfig: "means of its encoder are over padded cells too, and RoIAlign knows of no padding",
}


def test_padding_does_not_move_predictions(detector, config):
    """More padding of the same images, whose maps have nothing there, changes nothing.

    This starts from feature maps: what a backbone makes of the border of an image depends on what lies
    beyond it in every such detector.
    """
    if type(config) in SEES_PADDING:
        pytest.skip(SEES_PADDING[type(config)])
    shaken(detector).eval()
    with torch.no_grad():
        maps = detector.backbone(normalize(images(), SIZES))
        wide = [F.pad(m, (0, m.shape[-1] // 2, 0, m.shape[-2] // 2)) for m in maps]
        tight = detector.decode(maps, PaddedSizes(SIZES, (128, 128)))[-1]
        loose = detector.decode(wide, PaddedSizes(SIZES, (192, 192)))[-1]
    torch.testing.assert_close(loose.boxes_xyxy, tight.boxes_xyxy, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(loose.logits, tight.logits, rtol=1e-4, atol=1e-4)


def test_evaluation_is_deterministic(detector):
    detector.eval()
    with torch.no_grad():
        first, second = detector(images(), SIZES)[-1], detector(images(), SIZES)[-1]
    assert first.logits.equal(second.logits)
    assert first.boxes_xyxy.equal(second.boxes_xyxy)


def test_state_dict_carries_everything(detector, config):
    shaken(detector).eval()
    other = config.build(CLASSES).eval()
    other.load_state_dict(detector.state_dict(), strict=True)
    with torch.no_grad():
        assert detector(images(), SIZES)[-1].logits.equal(other(images(), SIZES)[-1].logits)


def test_bf16_is_finite(detector, loss):
    with torch.autocast("cpu", torch.bfloat16):
        stages = shaken(detector)(images(), SIZES)
        total = loss(stages, objects(2, 3))
    total.backward()
    assert total.dtype == torch.float32
    assert all(s.boxes_xyxy.dtype == torch.float32 and s.boxes_xyxy.isfinite().all() for s in stages)
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


BF16_BOX, BF16_LOGIT = 0.02, 0.06
"""Mean difference from fp32 of boxes, as a share of the image or of a box beyond it, and of logits.

Measured: at most 0.013 (Sparse R-CNN, whose fresh deltas are random and exponents of one another; others
0.0042) and 0.039.
"""


def test_bf16_stays_near_fp32(detector):
    shaken(detector).eval()
    tokens = hooked(detector.selection.head) if isinstance(detector, DINO) else None
    with torch.no_grad():
        exact = detector(images(), SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = detector(images(), SIZES)
    # Which proposals become queries may turn on rounding: then the proposals themselves are compared, all of
    # them, also where a detector returns only those that it has chosen.
    which = 0 if isinstance(exact[0], Proposals) else -1
    predicted = [(stages[which].logits, stages[which].boxes_xyxy) for stages in (exact, rounded)]
    if tokens is not None:
        predicted = [(logits, 128 * cxcywh_to_xyxy(boxes)) for logits, boxes in tokens]
    (_, a), (_, b) = predicted
    extent = (a[..., 2:] - a[..., :2]).amax(-1, keepdim=True).clamp(min=128)
    boxes, logits = (a - b) / extent, predicted[0][0] - predicted[1][0]
    assert 0 < boxes.abs().mean() < BF16_BOX
    # Its maps are as near as those of P2 to P6 (0.02 of their spread); what its stages make of them is not.
    coarse = getattr(detector.config, "pyramid", None) == "p3-p7"
    assert 0 < logits.abs().mean() < (2 if coarse else 1) * BF16_LOGIT


def test_bf16_takes_objects_of_any_size(detector, loss):
    corners = torch.tensor([[40.0, 50.0], [3.0, 3.0], [60.0, 20.0]])
    with torch.autocast("cpu", torch.bfloat16):
        stages = shaken(detector)(images(), SIZES)
    for side in (0.01, 1.0, 1e4):  # a speck, a pixel, beyond the image
        targets = Targets(torch.cat((corners, corners + side), dim=1), torch.tensor([0, 1, 2]), (2, 1))
        detector.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            total = loss(stages, targets)
        total.backward(retain_graph=True)
        assert total.isfinite()
        assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


def test_bf16_takes_extreme_logits(detector, loss):
    with torch.no_grad():
        for head in shaken(detector).modules():
            if isinstance(head, Head) and head.out_features >= CLASSES:
                head.weight *= 1e4
    with torch.autocast("cpu", torch.bfloat16):
        stages = detector(images(), SIZES)
        total = loss(stages, objects(2, 3))
    assert max(s.logits.abs().max() for s in stages) > 1e3
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("variant", ONE_EACH)
def test_compiling_backbone_and_encoder_changes_nothing(variant):
    command = [sys.executable, "-m", "tests.support.compiled", variant]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(float(moved) < 1e-5 for moved in done.stdout.split())


def test_recomputing_stages_changes_nothing(detector, loss, config):
    shaken(detector).train()
    targets = objects(2, 3)
    loss(detector(images(), SIZES), targets).backward()
    kept = {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
    detector.zero_grad()
    detector.recompute = True
    loss(detector(images(), SIZES), targets).backward()
    for name, p in detector.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, kept[name], rtol=1e-4, atol=1e-5, msg=name)


def test_builds_on_the_meta_device(config):
    with torch.device("meta"):
        detector = config.build(CLASSES)
    assert all(t.is_meta for t in (*detector.parameters(), *detector.buffers()))
    real = config.build(CLASSES)
    assert {k: v.shape for k, v in detector.state_dict().items()} == {
        k: v.shape for k, v in real.state_dict().items()
    }


@pytest.mark.parametrize("config_type", get_args(DetectorConfig), ids=lambda c: c.__name__)
def test_full_size_builds_on_the_meta_device(config_type):
    with torch.device("meta"):
        detector = config_type().build(80)
    assert all(p.is_meta for p in detector.parameters())


class Waits(TorchDispatchMode):
    """Collect operations whose result the host must wait for when tensors live on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_never_waits_for_the_device(detector, loss):
    """Between the images and the matcher's one copy, nothing needs a number on the host."""
    batch, targets = images(), objects(2, 3)
    with Waits() as waits:
        stages = detector(batch, SIZES)
        loss(stages, targets)
    assert waits.seen == []


class Unrepeatable(TorchDispatchMode):
    """Collect operations that PyTorch refuses on a GPU when its algorithms must be deterministic.

    As `torch.use_deterministic_algorithms` lists them, but for `interpolate`, which has another way there.
    """

    NAMES = (
        *("grid_sampler", "adaptive_", "avg_pool3d_backward", "fractional_max_pool", "max_unpool"),
        *(
            "reflection_pad",
            "nll_loss2d",
            "_ctc_loss",
            "_embedding_bag",
            "put_",
            "histc",
            "bincount",
            "median",
        ),
    )

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        floating = name == "cumsum" and args[0].is_floating_point()
        if name.startswith(self.NAMES) or floating:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", ONE_EACH)
def test_a_gpu_can_repeat_a_step_bit_for_bit(detector, loss, monkeypatch):
    monkeypatch.setattr(bilinear, "_must_repeat", lambda maps: True)  # as there
    for module in (deformable, sampling):
        monkeypatch.setattr(module, "rows_are_faster", lambda table: False)
    batch, targets = images(), objects(2, 3)
    with Unrepeatable() as ops:
        loss(detector(batch, SIZES), targets).backward()
    assert ops.seen == set()


def test_detections_are_in_original_pixels(detector):
    stage = detector.eval()(images(), SIZES)[-1]
    here = detector.detect(stage, SIZES, SIZES)
    twice = detector.detect(stage, SIZES, SIZES * torch.tensor([2, 3]))
    assert here.boxes_xyxy.shape[-1] == 4
    assert here.boxes_xyxy.shape[:2] == here.scores.shape == here.labels.shape
    assert ((here.labels >= 0) & (here.labels < CLASSES)).all()
    assert ((here.scores >= 0) & (here.scores <= 1)).all()
    torch.testing.assert_close(twice.boxes_xyxy, here.boxes_xyxy * torch.tensor([3, 2, 3, 2]))
    assert twice.scores.equal(here.scores)
