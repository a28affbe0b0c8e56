"""Prediction against the bare forward pass, and against transformers' pipeline with the same weights.

    QDET_COCO_ROOT=/data/coco128 OMP_NUM_THREADS=1 python -m benchmarks.prediction --images 16
    QDET_COCO_ROOT=/data/coco128 OMP_NUM_THREADS=1 python -m benchmarks.prediction --images 16 --model demo

CPU seconds of this process, one thread of torch, all in one run and interleaved, so only the ratios count.
The model is a full-size Deformable DETR with ResNet-50 and random weights, or the given one, alone.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from qdet.inference.batches import PictureBatch, Preparation, prepare
from qdet.inference.load import load
from qdet.inference.model import Model
from qdet.inference.pictures import open_picture
from qdet.launching.commands.conversion import convert

Ways = dict[str, Callable[[], object]]
RATIOS = (
    ("predict", "forward"),
    ("preparation", "predict"),
    ("predict", "pipeline"),
    ("predict, one by one", "pipeline"),
)
"""Which way is compared with which."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    images: int = 8
    """Images of the split, the first ones."""
    batch: int = 8
    """Images per forward pass."""
    rounds: int = 3
    """Times that everything is measured; the medians of ratios are printed."""
    split: str = "val2017"
    """Folder of images below QDET_COCO_ROOT."""
    model: str | None = None
    """A model of `qdet.load` instead, without a comparison with transformers."""


def main(settings: Settings) -> None:
    """Measure, and print CPU seconds per image and ratios."""
    torch.set_num_threads(1)
    folder = Path(os.environ["QDET_COCO_ROOT"]) / settings.split
    files = sorted(folder.glob("*.jpg"))[: settings.images]
    if settings.model is not None:
        _report(_ways(load(settings.model, device="cpu"), files, settings.batch), settings)
        return
    with tempfile.TemporaryDirectory() as here:
        theirs = _save_transformers(Path(here) / "theirs")
        convert(theirs, Path(here) / "ours")
        ways = _ways(load(Path(here) / "ours", device="cpu"), files, settings.batch)
        pipeline = _pipeline(theirs)
        ways["pipeline"] = lambda: [pipeline(str(file), threshold=0.0) for file in files]
        _report(ways, settings)


def _ways(model: Model, files: list[Path], batch: int) -> Ways:
    return {
        "forward": _forward(model, files, batch),
        "preparation": lambda: _prepare(model, files, batch),
        "predict": lambda: model.predict(files, batch=batch, score=0.0),
        "predict, one by one": lambda: [model.predict(file, score=0.0) for file in files],
    }


def _report(ways: Ways, settings: Settings) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(settings.rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append((time.process_time() - started) / settings.images)
    for name, values in seconds.items():
        print(f"{name:<20} {statistics.median(values):7.3f} CPU s per image")
    for name, other in RATIOS:
        if other not in ways:
            continue
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))
        print(f"{name} / {other}: {ratio:.3f}")


def _forward(model: Model, files: list[Path], batch: int) -> Callable[[], object]:
    """Return the detector alone on the batches that `predict` makes, prepared beforehand."""
    batches = _prepare(model, files, batch)

    def run() -> None:
        with torch.no_grad():
            for one in batches:
                model.detector(one.images, one.sizes_hw)

    return run


def _prepare(model: Model, files: list[Path], batch: int) -> list[PictureBatch]:
    """Read, decode and resize files as `predict` does."""
    pictures = [open_picture(file) for file in files]
    return list(prepare(pictures, Preparation(model.description.augment, batch)))


def _save_transformers(folder: Path) -> Path:
    """Write transformers' Deformable DETR at its full size, with random weights."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    torch.manual_seed(0)
    options: dict[str, Any] = {"out_features": ["stage2", "stage3", "stage4"]}
    backbone = ResNetConfig(**options)
    options = {"use_timm_backbone": False, "use_pretrained_backbone": False, "num_labels": 91}
    config = DeformableDetrConfig(backbone_config=backbone, **options)
    DeformableDetrForObjectDetection(config).eval().save_pretrained(folder)
    return folder


def _pipeline(folder: Path) -> Callable[..., object]:
    from transformers import DeformableDetrForObjectDetection, DeformableDetrImageProcessorPil, pipeline

    model = DeformableDetrForObjectDetection.from_pretrained(folder)
    return pipeline("object-detection", model=model, image_processor=DeformableDetrImageProcessorPil())


if __name__ == "__main__":
    main(tyro.cli(Settings))
