"""Loaded models without a checkpoint: any detector with random, lively weights."""

import torch
from PIL import Image

from qdet.backbones import ResNetConfig
from qdet.config import flatten
from qdet.data.augment import AugmentConfig
from qdet.data.shards.categories import Categories
from qdet.detectors import DetectorConfig, DETRConfig
from qdet.inference.description import Description
from qdet.inference.model import Model
from qdet.inference.runner import DetectorRunner
from tests.support.detector_variants import CLASSES, shaken

AUGMENT = AugmentConfig(sizes=(128,), max_size=213)
TINY = DETRConfig(
    backbone=ResNetConfig(depth=14, width=8, weights=None),
    queries=12,
    width=32,
    heads=4,
    ffn=32,
    encoder_layers=1,
    decoder_layers=1,
)
"""As few operations as a whole detector has."""


def small_model(
    config: DetectorConfig = TINY, augment: AugmentConfig = AUGMENT, *, moved: float = 0.02
) -> Model:
    """Build a model of `CLASSES` classes, with the description that a checkpoint of it would have.

    `moved` says how far its weights are from those that training starts from.
    """
    torch.manual_seed(0)
    detector = shaken(config.build(CLASSES), moved)
    settings = {"detector": config, "data.augment": augment}
    job = {"name": "small"} | {at: type(part).__name__ for at, part in settings.items()}
    job |= {f"{at}.{path}": value for at, part in settings.items() for path, value in flatten(part).items()}
    classes = Categories(tuple(f"class {i}" for i in range(CLASSES)), tuple(range(1, CLASSES + 1)))
    description = Description(job=job, classes=classes, step=7, metrics={"val/AP": 0.25})
    return Model(description, DetectorRunner.of(detector, torch.device("cpu"), "fp32"))


def photo(height: int = 300, width: int = 200) -> Image.Image:
    """Return a smooth random image."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randint(0, 256, (9, 7, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(coarse.numpy()).resize((width, height), Image.Resampling.BICUBIC)
