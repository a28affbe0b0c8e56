"""The operations that have kernels, at the shapes of a training step and at odd ones.

B images   N queries   G groups   P points   T cells of all levels   W channels of all groups
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.scale import Scale
from qdet.detectors.adamixer.sampling_3d import sample_levels
from qdet.kernels.level_table import LevelTable
from qdet.kernels.sampling_3d import SampledLevels, define_sampling_3d, sampling_3d

STRIDES, GROUPS, POINTS, WIDTH = (4, 8, 16, 32), 4, 32, 256
Operation = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One operation on one set of inputs."""

    operation: str
    name: str
    inputs: tuple[Tensor, ...]
    """What has gradients."""
    kernel: Operation
    deterministic: Operation
    """The kernel whose gradients are the same bits in every run."""
    definition: Operation
    """Literal, in torch, for float64 too."""
    torch: Operation
    """What runs where no kernel does."""

    @property
    def bytes(self) -> int:
        """Bytes of the inputs, read once forward and twice backward with their gradients."""
        return 3 * sum(t.numel() * t.element_size() for t in self.inputs)


def timed_cases(scale: Scale) -> list[Case]:
    """Return the operations at the shapes of the training steps, in bf16 on a GPU."""
    dtype = torch.bfloat16 if scale.device.type == "cuda" else torch.float32
    return [
        sample_case(name, shape[0], shape[3], (shape[1], shape[2]), scale.device, dtype)
        for name, shape in scale.steps.items()
    ]


def odd_cases(scale: Scale) -> list[Case]:
    """Return small shapes at which a kernel may go wrong, in fp32."""
    make = partial(sample_case, device=scale.device, dtype=torch.float32)
    return [
        make("like a step", 2, 12, (96, 128)),
        make("points far outside", 2, 12, (64, 64), reach=40.0),
        make("maps of one cell", 1, 5, (32, 32), strides=(32, 64, 128, 256)),
        make("one point in one group", 1, 3, (64, 96), groups=1, points=1, width=32),
        make("a width of 24", 1, 3, (64, 96), groups=2, points=5, width=48),
        make("no queries", 1, 0, (64, 64)),
    ]


def sample_case(
    name: str,
    batch: int,
    queries: int,
    hw: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    strides: Sequence[int] = STRIDES,
    groups: int = GROUPS,
    points: int = POINTS,
    width: int = WIDTH,
    reach: float = 1.2,
) -> Case:
    """Return AdaMixer's 3D sampling; points reach `reach` times beyond the middle of the image."""
    generator = torch.Generator(device).manual_seed(batch + queries)
    sizes = tuple((-(-hw[0] // s), -(-hw[1] // s)) for s in strides)
    levels = LevelTable(sizes, tuple(strides))
    cells = sum(h * w for h, w in sizes)
    tokens = torch.randn(batch, cells, width, device=device, generator=generator)
    where = torch.rand(batch, queries, groups, points, 3, device=device, generator=generator)
    middle = torch.tensor((hw[1] / 2, hw[0] / 2, 3.5), device=device)
    spread = torch.tensor((reach * hw[1], reach * hw[0], 4.0), device=device)

    def run(at: Tensor, rows: Tensor, *, deterministic: bool) -> Tensor:
        maps = SampledLevels(rows, rows.detach().to(dtype), levels)
        return sampling_3d(at, maps, deterministic=deterministic)

    def run_torch(at: Tensor, rows: Tensor) -> Tensor:
        parts = rows.to(dtype).split([h * w for h, w in sizes], dim=1)
        maps = [part.mT.unflatten(-1, hw) for part, hw in zip(parts, sizes, strict=True)]
        return sample_levels(at, [m.contiguous() for m in maps], strides)

    return Case(
        "sampling_3d",
        name,
        (middle + spread * (where - 0.5), tokens),
        partial(run, deterministic=False),
        partial(run, deterministic=True),
        partial(define_sampling_3d, levels=levels),
        run_torch,
    )
