"""Recording changes no number of any detector, and leaves no hook behind."""

import pytest
import torch
from torch import nn

from qdet.errors import ConfigError
from qdet.visualize.looking.look import available, look
from qdet.visualize.looking.recording import Watch, recording
from tests.support.detector_variants import CLASSES, DEFAULT, SIZES, VARIANTS, images, shaken

ORIGINAL = torch.tensor([[256, 192], [50, 64]])

HAS = {
    "AdaMixer": ("points", "stages"),
    "AnchorDETR": ("attention", "stages"),
    "ConditionalDETR": ("attention", "stages"),
    "ConvSMCA": ("gaussians", "attention", "stages"),
    "DABDETR": ("attention", "stages"),
    "DETR": ("attention", "stages"),
    "DeformableDETR": ("points", "stages"),
    "DINO": ("points", "stages"),
    "DynamicDETR": ("regions", "stages"),
    "EfficientDETR": ("points", "stages"),
    "MultiScaleSMCA": ("gaussians", "attention", "stages"),
    "SMCA": ("gaussians", "attention", "stages"),
    "SparseRCNN": ("regions", "stages"),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return shaken(VARIANTS[name][0].build(CLASSES)).eval()


@pytest.mark.parametrize(
    "name", [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_a_recorded_pass_predicts_the_same_bits_and_records_every_stage(name):
    detector = build(name)
    with torch.no_grad():
        plain = detector(images(), SIZES)
    for what in available(detector):
        passes = []

        def forward(batch, sizes_hw, passes=passes):
            passes.append(detector(batch, sizes_hw))
            return passes[-1]

        looks = look(detector, images(), SIZES, ORIGINAL, what=what, forward=forward)
        (recorded,) = passes
        for before, after in zip(plain, recorded, strict=True):
            assert torch.equal(before.logits, after.logits)
            assert torch.equal(before.boxes_xyxy, after.boxes_xyxy)
        assert len(looks) == 2
        for seen in looks:
            assert seen.what == what
            assert len(seen.seen) == (0 if what == "stages" else seen.boxes.stages)
    assert not any(module._forward_hooks for module in detector.modules())


@pytest.mark.parametrize("name", sorted(DEFAULT))
def test_every_detector_has_what_its_paper_looks_with(name):
    detector = build(name)
    expected = HAS[type(detector).__name__]
    if "roi-align" in name:
        expected = ("regions", "stages")
    assert available(detector) == expected


def test_what_a_detector_does_not_have_is_an_error_that_lists_what_it_has():
    with pytest.raises(ConfigError, match=r"--what attention: AdaMixer has none; it has points and stages"):
        look(build("adamixer_r101"), images(), SIZES, ORIGINAL, what="attention")


def test_hooks_are_removed_after_an_error_too():
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), recording([Watch(module, lambda inputs, output: output)]):
        module(torch.zeros(1, 3))
    assert not module._forward_hooks


def test_the_pictures_of_bf16_are_of_the_bf16_pass():
    """What is computed again, such as q and k of attention, is computed in the precision of the pass."""
    detector = build("detr_r101")

    def forward(batch, sizes_hw):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return detector(batch, sizes_hw)

    narrow = look(detector, images(), SIZES, ORIGINAL, forward=forward)[0].seen[-1].maps[0]
    wide = look(detector, images(), SIZES, ORIGINAL)[0].seen[-1].maps[0]
    assert abs(narrow - wide).max() > 0
    assert abs(narrow - wide).max() < 0.05
    assert narrow.sum((-2, -1)) == pytest.approx(1, abs=1e-5)
