"""Batches that a device makes from a seed, and the training step on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.gpu.scale import Scale, Shape
from qdet.backbones import ResNetConfig
from qdet.detectors import AdaMixerConfig, Detector
from qdet.job import OptimConfig, TrainConfig
from qdet.losses import SetLossConfig, matched_objects
from qdet.training.distributed import World
from qdet.training.engine.plain import PlainEngine
from qdet.types import Targets

CLASSES, OBJECTS = 80, 7
"""Classes, and objects of an image, of which COCO has 7.3 on average."""


@dataclass(frozen=True)
class Scene:
    """A batch as the loader gives it to a rank."""

    images: Tensor
    """[B 3 H W] uint8, channels last, on the device."""
    sizes_hw: Tensor
    """[B 2] int64."""
    targets: Targets


def make_scene(shape: Shape, device: torch.device, *, seed: int = 0) -> Scene:
    """Return a batch of noise with `OBJECTS` boxes in each image."""
    batch, height, width, _ = shape
    generator = torch.Generator(device).manual_seed(seed)
    size = (batch, height, width, 3)
    images = torch.randint(0, 256, size, dtype=torch.uint8, device=device, generator=generator)
    sizes = torch.tensor([[height, width]] * batch, device=device)
    return Scene(
        images.permute(0, 3, 1, 2), sizes, make_targets((OBJECTS,) * batch, shape, device, generator)
    )


def make_targets(
    counts: tuple[int, ...], shape: Shape, device: torch.device, generator: torch.Generator
) -> Targets:
    """Return random boxes inside the images of a batch, with labels."""
    total = sum(counts)
    extent = torch.tensor((shape[2], shape[1]), device=device)
    a, b = (torch.rand(total, 2, device=device, generator=generator) for _ in range(2))
    low, high = torch.minimum(a, b) * extent, (torch.maximum(a, b) + 0.02).clamp(max=1) * extent
    labels = torch.randint(0, CLASSES, (total,), device=device, generator=generator)
    return Targets(torch.cat((low, high), dim=1), labels, counts)


def build_detector(scale: Scale, queries: int, *, seed: int = 0) -> Detector:
    """Return AdaMixer with a ResNet of random weights, as its recipe trains it, on the device."""
    torch.manual_seed(seed)
    backbone = ResNetConfig(depth=scale.depth, norm="eval", weights=None)
    config = AdaMixerConfig(backbone=backbone, queries=queries, stages=scale.stages)
    return config.build(CLASSES).to(scale.device).train()


class TrainingStep:
    """One rank's whole step, with the update, on one batch after the other.

    Args:
        detector: What learns.
        scale: The device, and the compiler's backend.
        precision: Of the job; None: that of the scale.
        compiled: Options of torch.compile; None: the detector runs as it is.
    """

    def __init__(
        self,
        detector: torch.nn.Module,
        scale: Scale,
        *,
        precision: Literal["bf16", "fp32"] | None = None,
        compiled: dict[str, Any] | None = None,
    ) -> None:
        train = TrainConfig(batch_size=1, workers=1, precision=precision or scale.precision)
        if compiled is not None:  # in place: the engine knows the module that it was made with
            detector.compile(backend=scale.compiler, **compiled)
        self.engine = PlainEngine(detector, train, OptimConfig(), World(0, 1, scale.device))
        self.criterion = SetLossConfig().build(CLASSES).to(scale.device)

    def __call__(self, scene: Scene, *, queries: int, lr_factor: float = 1e-3) -> Tensor:
        """Make a step; return the loss, which nobody waits for."""
        objects = matched_objects(scene.targets, queries)
        stages = self.engine(scene.images, scene.sizes_hw)
        loss = self.criterion(stages, scene.targets, scene.sizes_hw, normalizer=objects).total
        self.engine.backward(loss)
        self.engine.step(lr_factor)
        return loss.detach()

    def on(self, scene: Scene, *, queries: int) -> Callable[[], Tensor]:
        """Return a task that makes a step on the same batch each time."""
        return lambda: self(scene, queries=queries)
