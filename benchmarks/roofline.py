"""What a full-size training step of AdaMixer dispatches: launches, bytes and FLOPs by part, on fake tensors.

    python -m benchmarks.roofline [--kernels]

Nothing is computed, so any CPU will do. Bytes are those of inputs and outputs of every operation: what a
GPU moves where nothing is fused and nothing stays in a cache. A kernel is one launch over its tensors.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from qdet.backbones import ResNetConfig
from qdet.detectors import AdaMixerConfig, detector
from qdet.job import OptimConfig, TrainConfig
from qdet.kernels import level_table
from qdet.layers import position
from qdet.losses import SetLossConfig, set_loss
from qdet.losses.matching import OnHost
from qdet.training.distributed import World
from qdet.training.engine import plain
from qdet.training.engine.plain import PlainEngine
from qdet.types import Targets

NO_LAUNCH = (
    "prim.",
    "profiler.",
    "aten.empty",
    "aten.new_empty",
    "aten.scalar_tensor",
    "aten.detach",
    "aten._unsafe_view",
    "aten.lift_fresh",
)
"""Operations that give a GPU nothing to do."""
GATHERS = ("aten.embedding", "aten.gather", "aten.index.Tensor")
"""Operations that read only what they return."""
WRITES = tuple(f"aten.{name}" for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones"))
"""Operations that read nothing."""


@dataclass
class Cost:
    """What a part of a step takes."""

    launches: int = 0
    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Return both together."""
        return Cost(self.launches + other.launches, self.bytes + other.bytes, self.flops + other.flops)


class Counter(TorchDispatchMode):
    """Counts what is dispatched, by the part that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.costs = "rest", defaultdict[str, Cost](Cost)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and count one operation."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if view or str(func).startswith(NO_LAUNCH):
            return out
        written = sum(t.numel() * t.element_size() for t in _tensors(out))
        read = sum(map(_stored, _tensors((args, kwargs))))
        read = written if str(func).startswith(GATHERS) else 0 if str(func).startswith(WRITES) else read
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **kwargs, out_val=out) if count else 0
        self.costs[self.part] += Cost(1, read + written, flops)
        return out

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count as `part` inside a `with`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def mark(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, whose operations count as `part`."""

        def marked(*args: Any, **kwargs: Any) -> Any:
            with self.within(part):
                return function(*args, **kwargs)

        return marked


@dataclass(frozen=True)
class Program:
    """Stands for a Triton program: counts a launch over its tensors and runs nothing."""

    counter: Counter
    products: int = 0
    """How often it computes the products of adaptive mixing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Return what launches the program."""
        return self.count

    def count(self, *args: Any, **_: Any) -> None:
        """Count one launch."""
        flops = self.products * _products_of_mixing(*args[:2]) if self.products else 0
        moved = sum(map(_stored, _tensors(args)))
        self.counter.costs[self.counter.part] += Cost(1, moved, flops)


def _products_of_mixing(sampled: Tensor, weights: Tensor) -> int:
    """Return the FLOPs of x M_c and M_s y, for every query and group."""
    points, channels = sampled.shape[-2:]
    by_point = weights.shape[-1] - channels**2  # points_out x points
    return 2 * channels * sampled.shape[:3].numel() * (points * channels + by_point)


def count_step(
    *,
    batch: int = 16,
    height: int = 800,
    width: int = 1344,
    queries: int = 300,
    objects: int = 7,
    kernels: bool = False,
) -> dict[str, Cost]:
    """Count a step with update: bf16, the recipe's norms, as a GPU runs it with or without `kernels`."""
    counter = Counter()
    with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as stack:
        config = AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval", weights=None), queries=queries)
        model, criterion = config.build(80).train(), SetLossConfig().build(80)
        world = World(0, 1, torch.device("cpu"))
        stack.enter_context(mock.patch.object(model, "to", return_value=model))  # fake tensors cannot move
        stack.enter_context(mock.patch.object(plain, "casts_together", return_value=True))
        engine = PlainEngine(model, TrainConfig(batch_size=batch, workers=1), OptimConfig(), world)
        engine.state._make_state(updates=1)  # as after the first step
        images = torch.empty(batch, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        sizes, total = torch.empty(batch, 2, dtype=torch.int64), batch * objects
        targets = Targets(torch.empty(total, 4), torch.empty(total, dtype=torch.int64), (objects,) * batch)
        patches = _marks(counter, model, criterion) + _as_on_a_gpu()
        for patch in patches + (_programs(counter) if kernels else []):
            stack.enter_context(patch)
        engine(images, sizes)  # the first pass shows which weights are cast
        counter.costs.clear()
        stack.enter_context(counter)
        with counter.within("decoder"):
            stages = engine(images, sizes)
        with counter.within("loss"):
            loss = criterion(stages, targets, sizes, normalizer=float(total)).total
        with counter.within("backward"):
            engine.backward(loss)
        with counter.within("optimizer"):
            engine.step(1.0)
    return dict(counter.costs)


def _as_on_a_gpu() -> list[Any]:
    """Return patches that take the ways of a GPU: one program for attention, objects not cut into blocks.

    And those of a second step, whose wavelengths are there already.
    """
    return [
        mock.patch.object(position, "_wavelengths", lambda n, *_: torch.empty(n // 2)),
        mock.patch.object(F, "scaled_dot_product_attention", _attend),
        mock.patch.object(set_loss, "parts", lambda total, *_: [slice(0, total)]),
    ]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attend in the program that takes a bias and gives its gradient."""
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    if mask is not None:
        mask = mask.expand(*q.shape[:3], k.shape[2])
    return attend(q, k, v, mask, compute_log_sumexp=True, dropout_p=dropout)[0]


def _marks(counter: Counter, model: Any, criterion: Any) -> list[Any]:
    """Return patches that name the parts of a forward pass, and let an assignment cost nothing."""
    patches = [
        mock.patch.object(detector, "normalize", counter.mark("normalize", detector.normalize)),
        mock.patch.object(model.backbone, "forward", counter.mark("backbone", model.backbone.forward)),
        mock.patch.object(model.neck, "forward", counter.mark("neck", model.neck.forward)),
        mock.patch.object(criterion, "_match", counter.mark("matching", criterion._match)),
        mock.patch.object(set_loss, "assign", _assign_anything),
    ]
    for stage in model.decoder.stages:
        for name in ("sampling", "mixing", "attention"):
            part = getattr(stage, name)
            patches.append(mock.patch.object(part, "forward", counter.mark(name, part.forward)))
    return patches


def _programs(counter: Counter) -> list[Any]:
    """Return patches that let kernels take what is no real tensor, and count them instead of running them."""
    replaced: dict[str, Any] = {"level_table._table": level_table._table.__wrapped__}  # keeps no fake table
    for name in ("adaptive_mixing", "focal_loss", "overlap_bias", "sampling_3d"):
        replaced |= {f"{name}.{asked}": lambda *_: True for asked in ("kernels_wanted", "trusted")}
        for program, passes in (("forward", 1), ("backward", 3)):
            products = passes if name == "adaptive_mixing" else 0
            replaced[f"programs.{name}.{program}"] = Program(counter, products)
    return [mock.patch(f"qdet.kernels.{name}", by) for name, by in replaced.items()]


def _assign_anything(cost: Tensor, counts: Sequence[int]) -> OnHost:
    """Return an assignment of all objects that costs nothing."""
    return OnHost(np.zeros((2, cost.shape[0], sum(counts)), np.int64), [], cost.device)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _stored(tensor: Tensor) -> int:
    """Return the bytes of a tensor, an expanded dimension once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


def main(
    *, batch: int = 16, height: int = 800, width: int = 1344, queries: int = 300, kernels: bool = False
) -> None:
    """Print a table by part.

    Args:
        batch: Images.
        height: Of the padded images, in pixels.
        width: Of the padded images, in pixels.
        queries: Of an image.
        kernels: Sampling, mixing and focal loss as `--train.kernels auto` runs them.
    """
    costs = count_step(batch=batch, height=height, width=width, queries=queries, kernels=kernels)
    print("| part | launches | GB | TFLOP |\n| --- | --: | --: | --: |")
    for part, cost in [*costs.items(), ("all", sum(costs.values(), Cost()))]:
        print(f"| {part} | {cost.launches:,} | {cost.bytes / 1e9:.1f} | {cost.flops / 1e12:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
