"""AdaMixer's 3D sampling (Gao et al., CVPR 2022, section 3.2): points in x, y and scale.

B images   N queries   G groups   P points   T cells of all levels   C channels per group   L levels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdet.kernels.agreement import check_agreement, wave
from qdet.kernels.choice import fall_back, kernels_wanted, trusted
from qdet.kernels.level_table import MOST_CELLS, LevelTable
from qdet.kernels.scattered_sums import ScatteredSums

NAME = "sampling_3d"
TAU = 2.0
"""Width of a point's footprint over the levels: tau_z in the paper."""
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class SampledLevels:
    """Feature maps as the kernel reads them, laid out once per step for all stages."""

    tokens: Float[Tensor, "B T _"]
    """All cells with all channels, level by level; their gradients add up in this dtype, float32 or wider."""
    narrow: Float[Tensor, "B T _"]
    """The same in the dtype that is read, outside of autograd."""
    levels: LevelTable

    @classmethod
    def of(
        cls, maps: Sequence[Float[Tensor, "B _ _ _"]], strides: Sequence[int], dtype: torch.dtype
    ) -> "SampledLevels":
        """Lay out the maps of a batch, to be read in `dtype`."""
        tokens = torch.cat([m.flatten(2).mT for m in maps], dim=1).contiguous()
        sizes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        return cls(tokens, tokens.detach().to(dtype), LevelTable(sizes, tuple(strides)))


def sampling_3d(
    points: Float[Tensor, "B N G P 3"], maps: SampledLevels, *, deterministic: bool | None = None
) -> Float[Tensor, "B N G P C"]:
    """Interpolate every level at (x, y) in pixels and add them up by the weight of z, in one kernel.

    The result is in the dtype that is read. `deterministic` gradients are the same bits in every run; by
    default they are where torch's must be.
    """
    fixed = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic
    return _Sampling3D.apply(maps.tokens, points.contiguous(), maps.narrow, maps.levels, fixed)


def define_sampling_3d(
    points: Float[Tensor, "B N G P 3"], tokens: Float[Tensor, "B T _"], levels: LevelTable
) -> Float[Tensor, "B N G P C"]:
    """Define the operation cell by cell, in torch."""
    images, _, groups = points.shape[:3]
    x, y, z = points.unbind(-1)
    table = levels.on_device(points)
    shares = torch.softmax(-((z.unsqueeze(-1) - table[:, 4]) ** 2) / TAU, dim=-1)
    cells = tokens.unflatten(-1, (groups, -1))  # [B, T, G, C]
    image = torch.arange(images, device=points.device).view(-1, 1, 1, 1)
    group = torch.arange(groups, device=points.device).view(-1, 1)
    total = tokens.new_zeros(())
    for (height, width, first, stride, _), share in zip(table.tolist(), shares.unbind(-1), strict=True):
        at_x, at_y = x / stride - 0.5, y / stride - 0.5
        for i in (at_y.detach().floor(), at_y.detach().floor() + 1):
            for j in (at_x.detach().floor(), at_x.detach().floor() + 1):
                inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
                row = first + i.clamp(0, height - 1) * width + j.clamp(0, width - 1)
                part = (1 - (at_y - i).abs()) * (1 - (at_x - j).abs()) * share
                weight = torch.where(inside, part, torch.zeros_like(part))
                total = total + cells[image, row.long(), group] * weight.unsqueeze(-1)
    return total


def sampling_3d_runs(maps: Sequence[Float[Tensor, "B _ _ _"]], *, groups: int, points: int) -> bool:
    """Whether the kernel is wanted, supports these maps and works on their device; says once if not."""
    if not kernels_wanted(*maps):
        return False
    channels, cells = maps[0].shape[1] // groups, sum(m.shape[-2] * m.shape[-1] for m in maps)
    if maps[0].dtype not in _DTYPES:
        return fall_back(NAME, f"it has no kernel for {maps[0].dtype}")
    if points > 128 or channels > 256 or points * channels > 2**14:
        return fall_back(NAME, f"{points} points of {channels} channels are too many for a program")
    if len(maps) > 8 or cells >= MOST_CELLS:
        return fall_back(NAME, f"{len(maps)} levels of {cells} cells in all are too many")
    kind = (maps[0].device, maps[0].dtype, points, channels)
    return trusted(NAME, kind, partial(_check, maps[0], points, channels))


def _check(like: Tensor, points: int, channels: int) -> None:
    """Compare with the definition on one query and two small levels."""
    levels = LevelTable(((3, 4), (2, 2)), (4, 8))
    tokens = wave(1, levels.cells, channels, like=like.float())
    places = 8 + 9 * wave(1, 1, 1, points, 3, like=like.float(), offset=0.3)
    places = places * places.new_tensor((1, 1, 0.25))

    def sample(at: Tensor, cells: Tensor) -> Tensor:
        return sampling_3d(at, SampledLevels(cells, cells.detach(), levels))

    check_agreement(sample, partial(define_sampling_3d, levels=levels), (places, tokens))


def _blocks(points: Tensor, tokens: Tensor, levels: LevelTable) -> tuple[int, ...]:
    """Return the sizes that both programs take."""
    _, queries, groups, count, _ = points.shape
    channels = tokens.shape[2] // groups
    powers = (1 << (size - 1).bit_length() for size in (count, channels))
    return queries, tokens.shape[1], channels, count, groups, *powers, len(levels.sizes_hw)


class _Sampling3D(torch.autograd.Function):
    @staticmethod
    def forward(tokens: Tensor, points: Tensor, narrow: Tensor, levels: LevelTable, fixed: bool) -> Tensor:
        from qdet.kernels.programs import sampling_3d as programs

        images, queries, groups, count, _ = points.shape
        out = narrow.new_empty(images, queries, groups, count, narrow.shape[2] // groups)
        if out.numel():
            sizes = _blocks(points, narrow, levels)
            table = levels.on_device(points)
            forward: Any = programs.forward  # a program as it is written; Triton adds the grid
            forward[(images * queries * groups,)](narrow, points, table, out, *sizes, TAU)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tokens, points, narrow, ctx.levels, ctx.fixed = inputs
        ctx.wide = tokens.dtype
        ctx.save_for_backward(points, narrow)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from qdet.kernels.programs import sampling_3d as programs

        points, narrow = ctx.saved_tensors
        if not grad.numel():
            return torch.zeros_like(narrow, dtype=ctx.wide), torch.zeros_like(points), None, None, None
        images, queries, groups, count, _ = points.shape
        made = ScatteredSums.make(narrow, grad, most_terms=queries * count, deterministic=ctx.fixed)
        d_points = torch.empty_like(points)
        backward: Any = programs.backward
        backward[(images * queries * groups,)](
            narrow, points, ctx.levels.on_device(points), grad.contiguous(), made.sums, d_points, made.unit,
            *_blocks(points, narrow, ctx.levels), TAU, made.fixed,
        )  # fmt: skip
        return made.read(ctx.wide), d_points, None, None, None
