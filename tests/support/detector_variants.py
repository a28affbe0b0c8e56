"""Every kind of detector at demo size, with images and objects to try it with."""

from dataclasses import replace

import torch

from qdet.detectors import AdaMixerConfig, Detector, DetectorConfig
from qdet.losses import SetLossConfig
from qdet.types import Targets
from tests.support.recipes import MODELS

CLASSES = 5
SIZES = torch.tensor([[128, 96], [100, 128]])


# Settings of AdaMixer's demo: each value of its ablations that its first job does not have, in one of them.
SWITCHED = (
    {"sampling": "c3", "mixing": "acm-acm", "groups": 1, "points_out": 128},
    {"sampling": "c4", "mixing": "asm-asm", "groups": 2},
    {"sampling": "c5", "adaptive": "none", "groups": 8, "points_out": 32},
    {"sampling": "roi-align", "adaptive": "content", "points_out": 64},
    {"pyramid": "pafpn", "position": "sine", "points_in": 8},
    {"sampling": "2d", "adaptive": "location", "position": "iof", "points_in": 64},
    {"pyramid": "fpn", "mixing": "asm-acm", "position": "none", "points_in": 32, "points_out": 256},
)


def variants() -> dict[str, tuple[DetectorConfig, SetLossConfig]]:
    """Every distinct demo detector of the jobs with its loss, under the name of the first such job.

    And AdaMixer's with its switches the other way.
    """
    found: dict[str, tuple[DetectorConfig, SetLossConfig]] = {}
    for name, model in MODELS.items():
        job = model.demo()
        if (job.detector, job.loss) not in found.values():
            found[name] = (job.detector, job.loss)
    for settings in SWITCHED:
        name = "adamixer-" + "-".join(f"{key}={value}" for key, value in settings.items())
        found[name] = (replace(AdaMixerConfig().demo(), **settings), SetLossConfig())
    return found


VARIANTS = variants()
ONE_EACH = list({type(config): name for name, (config, _) in reversed(VARIANTS.items())}.values())
"""One variant of every detector."""
DEFAULT = {*ONE_EACH, *(name for name in VARIANTS if name.startswith("adamixer-"))}
"""What every run of the tests tries: each detector once, and AdaMixer's switches. The other jobs are slow."""


def shaken(detector: Detector, by: float = 0.02) -> Detector:
    """Move every weight, so that heads that start at zero hide nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in detector.parameters():
            p += by * torch.randn(p.shape, generator=generator)
    return detector


def images(sizes: torch.Tensor = SIZES, height: int = 128, width: int = 128) -> torch.Tensor:
    batch = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for i, (h, w) in enumerate(sizes.tolist()):
        torch.manual_seed(10 + i)
        batch[i, :, :h, :w] = torch.randint(0, 256, (3, h, w), dtype=torch.uint8)
    return batch


def objects(*counts: int) -> Targets:
    corners = 60 * torch.rand(sum(counts), 2)
    boxes = torch.cat((corners, corners + 5 + 30 * torch.rand(sum(counts), 2)), dim=1)
    return Targets(boxes, torch.randint(0, CLASSES, (sum(counts),)), counts)
