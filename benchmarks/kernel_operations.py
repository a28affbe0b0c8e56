"""Inputs of the operations in `qdet.kernels`, as training has them, and the ways to compute each.

B images   N queries   S stages
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qdet.detectors.adamixer.sampling_3d import sample_levels
from qdet.detectors.adamixer.xyzr import log_iof
from qdet.kernels.adaptive_mixing import adaptive_mixing, adaptive_mixing_runs
from qdet.kernels.choice import kernels
from qdet.kernels.deformable_attention import deformable_attention, deformable_attention_runs
from qdet.kernels.focal_loss import focal_loss_runs
from qdet.kernels.level_table import LevelTable
from qdet.kernels.overlap_bias import overlap_bias, overlap_bias_runs
from qdet.kernels.sampling_3d import SampledLevels, sampling_3d, sampling_3d_runs
from qdet.layers.attention.deformable import gather_points
from qdet.layers.precision import widen
from qdet.layers.token_levels import token_levels
from qdet.losses.classification import focal_loss
from qdet.types import PaddedSizes

Variant = Literal["torch", "triton", "deterministic", "compile"]
"""torch's operations as they are, the kernel, the kernel with gradients in fixed point, torch's compiled."""
STRIDES, STAGES = (4, 8, 16, 32), 6


@dataclass(frozen=True)
class Sizes:
    """What decides the shapes of all operations."""

    images: int
    queries: int
    height: int
    width: int
    groups: int = 4
    channels: int = 64
    points_in: int = 32
    points_out: int = 128
    heads: int = 8
    classes: int = 80
    objects: int = 7
    """Objects of an image."""

    def maps(self) -> list[tuple[int, int]]:
        """Return height and width of the map of every stride."""
        return [(-(-self.height // s), -(-self.width // s)) for s in STRIDES]


@dataclass(frozen=True)
class Case:
    """An operation with its inputs: what differentiates each leaf, and how each variant computes it."""

    leaves: Sequence[Tensor]
    torch: Callable[[], Tensor]
    triton: Callable[[], Tensor]
    deterministic: Callable[[], Tensor] | None
    """None where the kernel adds to nothing that other programs add to."""
    runs: Callable[[], bool]
    """Whether the kernel supports the inputs and passes its check; says so if not."""

    def variant(self, name: Variant) -> Callable[[], Tensor] | None:
        """Return what computes the operation in this way."""
        if name == "compile":
            return torch.compile(self.torch, dynamic=False)
        return getattr(self, name)


def make_sampling_3d(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Case:
    """Return points around the image, and maps whose gradients add up in float32."""
    make = _maker(device)
    width = sizes.groups * sizes.channels
    maps = [_leaf(make(sizes.images, width, *size)) for size in sizes.maps()]
    shape = (sizes.images, sizes.queries, sizes.groups, sizes.points_in)
    scale = torch.tensor([sizes.width, sizes.height, 6.0], device=device)
    points = _leaf(torch.rand(*shape, 3, device=device, generator=make.keywords["generator"]) * scale)

    def sample(deterministic: bool) -> Tensor:
        return sampling_3d(points, SampledLevels.of(maps, STRIDES, dtype), deterministic=deterministic)

    return Case(
        (points, *maps),
        lambda: sample_levels(points, maps, STRIDES).to(dtype),
        partial(sample, False),
        partial(sample, True),
        lambda: sampling_3d_runs(maps, groups=sizes.groups, points=sizes.points_in),
    )


def make_adaptive_mixing(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Case:
    """Return samples and the matrices that a generator made."""
    make, channels, out = _maker(device), sizes.channels, sizes.points_out
    shape = (sizes.images, sizes.queries, sizes.groups)
    sampled = _leaf(make(*shape, sizes.points_in, channels).to(dtype))
    counts = [channels**2, out * sizes.points_in]
    weights = _leaf((0.2 * make(*shape, sum(counts))).to(dtype))

    def mix() -> Tensor:
        by_channel, by_point = weights.split(counts, dim=-1)
        hidden = _norm_relu(sampled @ by_channel.unflatten(-1, (channels, channels)))
        return _norm_relu(by_point.unflatten(-1, (out, sizes.points_in)) @ hidden)

    kernel = partial(adaptive_mixing, sampled, weights, out)
    check = partial(adaptive_mixing_runs, sampled, points_out=out, dtype=dtype)
    return Case((sampled, weights), mix, kernel, None, check)


def make_deformable_attention(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Case:
    """Return values of three levels, points all over them, and weights that sum to 1."""
    make, shapes = _maker(device), sizes.maps()[1:]
    padded = PaddedSizes(torch.tensor([shapes[0]] * sizes.images, device=device), shapes[0])
    levels = token_levels([torch.zeros(sizes.images, 1, *shape, device=device) for shape in shapes], padded)
    table = LevelTable(tuple(shapes), (1,) * len(shapes))
    value = _leaf(make(sizes.images, table.cells, sizes.heads * 32).to(dtype))
    shape = (sizes.images, sizes.queries, sizes.heads, len(shapes), 4)
    points = _leaf(torch.rand(*shape, 2, device=device, generator=make.keywords["generator"]))
    weights = _leaf(make(*shape).flatten(-2).softmax(-1).view(shape))
    inputs = (value, points, weights)
    return Case(
        inputs,
        lambda: gather_points(*inputs, levels).to(dtype),
        partial(deformable_attention, *inputs, table, deterministic=False),
        partial(deformable_attention, *inputs, table, deterministic=True),
        partial(deformable_attention_runs, value, table, heads=sizes.heads),
    )


def make_overlap_bias(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Case:
    """Return a scale for each head, and boxes, in float32 whatever the `dtype` of the bias."""
    make = _maker(device)
    corners = sizes.width / 2 * make(sizes.images, sizes.queries, 2).abs()
    boxes = torch.cat((corners, corners + 16 + 100 * make(*corners.shape).abs()), dim=-1)
    scale = _leaf(make(sizes.heads).abs())

    def compute() -> Tensor:
        return (scale.view(-1, 1, 1) * log_iof(boxes).unsqueeze(1)).to(dtype)

    kernel = partial(overlap_bias, boxes, scale, dtype)
    check = partial(overlap_bias_runs, boxes, heads=sizes.heads, dtype=dtype)
    return Case((scale,), compute, kernel, None, check)


def make_focal_loss(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Case:
    """Return logits of all stages in float32, whatever the `dtype`, and pairs."""
    make, matched = _maker(device), sizes.images * min(sizes.objects, sizes.queries)
    logits = _leaf(make(STAGES, sizes.images * sizes.queries, sizes.classes) - 4)
    stage = torch.arange(STAGES, device=device).unsqueeze(1)
    queries = make(STAGES, logits.shape[1]).argsort(1)[:, :matched]
    labels = (torch.arange(STAGES * matched, device=device) % sizes.classes).view(STAGES, -1)

    def compute(choice: Literal["torch", "triton"]) -> Tensor:
        with kernels(choice):
            return focal_loss(logits, stage, queries, labels)

    check = partial(focal_loss_runs, logits, alpha=0.25, gamma=2.0)
    return Case((logits,), partial(compute, "torch"), partial(compute, "triton"), None, check)


OPERATIONS: dict[str, Callable[[Sizes, torch.dtype, torch.device], Case]] = {
    "sampling_3d": make_sampling_3d,
    "adaptive_mixing": make_adaptive_mixing,
    "deformable_attention": make_deformable_attention,
    "focal_loss": make_focal_loss,
    "overlap_bias": make_overlap_bias,
}
SIZES = {
    "16 images": Sizes(16, 300, 800, 1344),
    "2 images": Sizes(2, 100, 800, 1344),
    "toy": Sizes(
        1, 2, 32, 48, groups=1, channels=8, points_in=4, points_out=5, heads=1, classes=5, objects=1
    ),
}


def describe(sizes: Sizes, dtype: torch.dtype) -> dict[str, Any]:
    """Return what inputs are made from, for JSON."""
    return asdict(sizes) | {"dtype": str(dtype).removeprefix("torch."), "seed": 0}


def _norm_relu(x: Tensor) -> Tensor:
    wide = widen(x)
    return F.relu(F.layer_norm(wide, wide.shape[-2:]).to(x.dtype))


def _maker(device: torch.device) -> partial[Tensor]:
    return partial(torch.randn, device=device, generator=torch.Generator(device).manual_seed(0))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()
