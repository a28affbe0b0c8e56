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

    cells: Float[Tensor, "B T _"]
    """All cells with all channels, level by level, in the dtype that is read."""
    levels: LevelTable
    gradient: "CellGradient"

    @classmethod
    def of(
        cls, maps: Sequence[Float[Tensor, "B _ _ _"]], strides: Sequence[int], dtype: torch.dtype
    ) -> "SampledLevels":
        """Lay out the maps of a batch, to be read in `dtype`."""
        tokens = torch.cat([m.flatten(2).mT for m in maps], dim=1).contiguous()
        sizes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        return cls.read(tokens, LevelTable(sizes, tuple(strides)), dtype)

    @classmethod
    def read(cls, tokens: Float[Tensor, "B T _"], levels: LevelTable, dtype: torch.dtype) -> "SampledLevels":
        """Read cells in `dtype`; their gradient is summed in float32 or wider all the same."""
        gradient = CellGradient()
        return cls(_ReadCells.apply(tokens, dtype, gradient), levels, gradient)


class CellGradient:
    """The gradient of the cells in a backward pass, to which every stage adds its own.

    Autograd would give each stage zeros of the size of all maps and add them up in passes of their own, 29 GB
    in a full-size step (`python -m benchmarks.roofline --kernels`).
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._of_pass = -1

    def so_far(self) -> Float[Tensor, "B T _"] | None:
        """Return what stages of the backward pass that is running have added, if any has."""
        return self._sums if self._of_pass == _this_pass() else None

    def put(self, sums: Float[Tensor, "B T _"]) -> None:
        """Keep the sums of the stages so far."""
        self._sums, self._of_pass = sums, _this_pass()

    def take(self) -> Float[Tensor, "B T _"] | None:
        """Return the sums of all stages, and keep nothing."""
        sums, self._sums = self.so_far(), None
        return sums


def _this_pass() -> int:
    """Number the backward pass that is running: one that ends early must leave the next one nothing."""
    return torch._C._current_graph_task_id()


def sampling_3d(
    points: Float[Tensor, "B N G P 3"], maps: SampledLevels, *, deterministic: bool | None = None
) -> Float[Tensor, "B N G P C"]:
    """Interpolate every level at (x, y) in pixels and add them up by the weight of z, in one kernel.

    The result is in the dtype that is read. `deterministic` gradients are the same bits in every run; by
    default they are where torch's must be.
    """
    fixed = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic
    return _Sampling3D.apply(points.contiguous(), maps.cells, maps.levels, maps.gradient, fixed)


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
        return sampling_3d(at, SampledLevels.read(cells, levels, cells.dtype))

    check_agreement(sample, partial(define_sampling_3d, levels=levels), (places, tokens))


def _blocks(points: Tensor, tokens: Tensor, levels: LevelTable) -> tuple[int, ...]:
    """Return the sizes that both programs take."""
    _, queries, groups, count, _ = points.shape
    channels = tokens.shape[2] // groups
    powers = (1 << (size - 1).bit_length() for size in (count, channels))
    return queries, tokens.shape[1], channels, count, groups, *powers, len(levels.sizes_hw)


class _ReadCells(torch.autograd.Function):
    """Gives all stages the cells in the dtype that they read, and takes the gradient that they summed."""

    @staticmethod
    def forward(tokens: Tensor, dtype: torch.dtype, gradient: CellGradient) -> Tensor:
        return tokens.view_as(tokens) if tokens.dtype == dtype else tokens.to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tokens, _, ctx.gradient = inputs
        ctx.wide = tokens.dtype
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        sums = ctx.gradient.take()
        return None if sums is None else sums.to(ctx.wide), None, None


class _Sampling3D(torch.autograd.Function):
    @staticmethod
    def forward(
        points: Tensor, cells: Tensor, levels: LevelTable, gradient: CellGradient, fixed: bool
    ) -> Tensor:
        from qdet.kernels.programs import sampling_3d as programs

        images, queries, groups, count, _ = points.shape
        out = cells.new_empty(images, queries, groups, count, cells.shape[2] // groups)
        if out.numel():
            sizes = _blocks(points, cells, levels)
            table = levels.on_device(points)
            forward: Any = programs.forward  # a program as it is written; Triton adds the grid
            forward[(images * queries * groups,)](cells, points, table, out, *sizes, TAU)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        points, cells, ctx.levels, ctx.gradient, ctx.fixed = inputs
        ctx.save_for_backward(points, cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from qdet.kernels.programs import sampling_3d as programs

        points, cells = ctx.saved_tensors
        before = ctx.gradient.so_far()
        wide = torch.float64 if cells.dtype == torch.float64 else torch.float32
        if not grad.numel():
            ctx.gradient.put(torch.zeros_like(cells, dtype=wide) if before is None else before)
            return torch.zeros_like(points), None, None, None, None
        images, queries, groups, count, _ = points.shape
        most = queries * count
        made = ScatteredSums.make(cells, grad, most_terms=most, deterministic=ctx.fixed, onto=before)
        d_points = torch.empty_like(points)
        backward: Any = programs.backward
        backward[(images * queries * groups,)](
            cells, points, ctx.levels.on_device(points), grad.contiguous(), made.sums, d_points, made.unit,
            *_blocks(points, cells, ctx.levels), TAU, made.fixed,
        )  # fmt: skip
        found = made.read(wide)
        ctx.gradient.put(before.add_(found) if made.fixed and before is not None else found)
        return d_points, None, None, None, None
