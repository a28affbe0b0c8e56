"""How large the measurements are: the recipe's sizes on a GPU, tiny ones on a CPU."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from qdet.layers.precision import name_emulator

Shape = tuple[int, int, int, int]
"""Images, height, width, queries."""


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured, on one device."""

    device: torch.device
    steps: dict[str, Shape]
    """The training steps that are timed."""
    planned: tuple[tuple[int, int], ...]
    """Heights and widths as they follow each other in an epoch."""
    others: Shape
    """The step of the detectors that transformers has too; its queries are the model's own."""
    counts: dict[str, tuple[int, ...]]
    """Objects of each image, for the matching."""
    depth: Literal[14, 50]
    """Layers of the ResNet."""
    stages: int
    matmul: int
    """Side of the square matrices of the bf16 ceiling."""
    copied: int
    """Bytes of the memory ceiling, and of the state that is copied beside steps."""
    precision: Literal["bf16", "fp32"]
    """Of the steps that are timed."""
    rounds: int
    warmup: int
    learned: int
    """Steps of the loss curves."""
    compiler: Literal["inductor", "eager"]
    """Backend of torch.compile."""


FULL = Scale(
    device=torch.device("cuda"),
    steps={"16 images": (16, 800, 1344, 300), "2 images": (2, 800, 1344, 100)},
    planned=(
        (800, 1344), (672, 1120), (800, 1216), (544, 1344), (800, 1088), (1344, 800),
        (608, 1056), (800, 1344), (736, 992), (512, 864), (1216, 800), (768, 1344),
    ),
    others=(8, 800, 1088, 0),
    counts={
        "as in COCO": (3, 7, 1, 15, 2, 22, 40, 5, 4, 0, 9, 1, 6, 12, 3, 8),
        "crowded": (100, 63, 80, 35, 91, 50, 70, 42, 66, 58, 77, 90, 33, 61, 85, 49),
    },
    depth=50,
    stages=6,
    matmul=8192,
    copied=2 * 10**9,
    precision="bf16",
    rounds=30,
    warmup=10,
    learned=200,
    compiler="inductor",
)  # fmt: skip

TOY = Scale(
    device=torch.device("cpu"),
    steps={"2 images": (2, 64, 96, 12)},
    planned=((64, 96), (96, 64), (64, 64)),
    others=(2, 64, 96, 0),
    counts={"as in COCO": (3, 0), "crowded": (9, 5)},
    depth=14,
    stages=2,
    matmul=128,
    copied=10**6,
    precision="fp32" if name_emulator(torch.device("cpu")) else "bf16",
    rounds=2,
    warmup=1,
    learned=3,
    compiler="eager",
)


def choose_scale() -> Scale:
    """Return the full sizes where there is a GPU, else the tiny ones."""
    return FULL if torch.cuda.is_available() else TOY


def pixels(shape: Shape) -> int:
    """Return the pixels of a batch."""
    return math.prod(shape[:3])
