"""Prediction against the bare forward pass, and against transformers' pipeline with the same weights.

    QDET_COCO_ROOT=/data/coco128 OMP_NUM_THREADS=1 python -m benchmarks.prediction --images 16

CPU seconds of this process, one thread of torch, all in one run and interleaved, so only the ratios count.
The model is a full-size Deformable DETR with ResNet-50 and random weights.
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

from qdet.inference.batches import Preparation, prepare
from qdet.inference.load import load
from qdet.inference.model import Model
from qdet.inference.pictures import open_picture
from qdet.launching.commands.conversion import convert


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


def main(settings: Settings) -> None:
    """Measure, and print CPU seconds per image and ratios."""
    torch.set_num_threads(1)
    folder = Path(os.environ["QDET_COCO_ROOT"]) / settings.split
    files = sorted(folder.glob("*.jpg"))[: settings.images]
    with tempfile.TemporaryDirectory() as here:
        theirs = _save_transformers(Path(here) / "theirs")
        convert(theirs, Path(here) / "ours")
        model = load(Path(here) / "ours", device="cpu")
        pipeline = _pipeline(theirs)
        ways: dict[str, Callable[[], object]] = {
            "forward": _forward(model, files, settings.batch),
            "predict": lambda: model.predict(files, batch=settings.batch, score=0.0),
            "predict, one by one": lambda: [model.predict(file, score=0.0) for file in files],
            "pipeline": lambda: [pipeline(str(file), threshold=0.0) for file in files],
        }
        _report(ways, settings)


def _report(ways: dict[str, Callable[[], object]], settings: Settings) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(settings.rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append((time.process_time() - started) / settings.images)
    for name, values in seconds.items():
        print(f"{name:<20} {statistics.median(values):7.3f} CPU s per image")
    for name, other in (("predict", "forward"), ("predict", "pipeline"), ("predict, one by one", "pipeline")):
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))
        print(f"{name} / {other}: {ratio:.3f}")


def _forward(model: Model, files: list[Path], batch: int) -> Callable[[], object]:
    """Return the detector alone on the batches that `predict` makes, prepared beforehand."""
    pictures = [open_picture(file) for file in files]
    batches = list(prepare(pictures, Preparation(model.description.augment, batch)))

    def run() -> None:
        with torch.no_grad():
            for one in batches:
                model.detector(one.images, one.sizes_hw)

    return run


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
