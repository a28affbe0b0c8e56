"""What an engine adds to a training step of AdaMixer: a bare loop, DDP, the engines here, and Ray.

    python -m benchmarks.engine

Each engine runs in processes of its own, one of one thread for each rank, on two images a rank, in fp32,
with what workers tell the allocator. A round is a step of an engine and one of what it is compared with,
so that what else the machine does meets both. All get the same weights and images, and an engine whose
losses are others ends it.
"""

import json
import os
import secrets
import socket
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import tyro

from benchmarks.steppers import Cost, Stepper, measure, serve
from qdet.allocator import ONE_KEPT_HEAP

HERE = Path(__file__).resolve().parents[1]
Size = Literal["full", "demo"]
Engine = Literal["bare", "plain", "ray", "ddp", "zero0", "zero1", "zero2", "zero3"]
SIZES_HW = {"full": ((320, 448), (288, 416)), "demo": ((64, 64), (64, 64))}
OBJECTS = 6
"""Of an image."""


class Variant(Protocol):
    """Processes that make steps together."""

    def step(self) -> list[Cost]:
        """Make a step; return what it took on every rank."""
        ...

    def close(self) -> None:
        """End the processes."""
        ...


def main(*, only: tuple[Engine, ...] = (), rounds: int = 6, size: Size = "full") -> None:
    """Print what a step takes with each engine, relative to a bare loop or to DDP.

    Args:
        only: Engines to measure; by default all.
        rounds: Steps of each, after two for warm-up.
        size: AdaMixer with ResNet-50 and 100 queries, or the demo's.
    """
    from benchmarks.machine import describe_machine

    print(json.dumps(describe_machine()))
    print("| engine | ranks | beside | CPU, s a rank | ratio | rounds | wall ratio |")
    print("| --- | --: | --- | --: | --: | --- | --: |", flush=True)
    for engine in only or get_args(Engine):
        beside: Engine = "bare" if engine in ("bare", "plain", "ray") else "ddp"
        if engine != beside:
            print(_compare(engine, beside, rounds, size), flush=True)


def _compare(engine: Engine, beside: Engine, rounds: int, size: Size) -> str:
    """Measure one engine beside another, and return its line.

    Raises:
        RuntimeError: They compute something else.
    """
    ranks = 1 if beside == "bare" else 2
    variants = [_start(name, ranks, size) for name in (engine, beside)]
    found: list[list[list[Cost]]] = [[], []]
    for _ in range(2 + rounds):
        for variant, costs in zip(variants, found, strict=True):
            costs.append(variant.step())
    for variant in variants:
        variant.close()
    for ours, theirs in zip(*found, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if abs(a.loss - b.loss) > 1e-3 * abs(b.loss):
                raise RuntimeError(f"{engine} has a loss of {a.loss}, {beside} one of {b.loss}")
    ours, theirs = ([statistics.fmean(c.cpu for c in step) for step in costs[2:]] for costs in found)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    walls = [max(c.wall for c in a) / max(c.wall for c in b) for a, b in zip(*found, strict=True)][2:]
    middle = [statistics.median(values) for values in (ours, ratios, walls)]
    return "| {} | {} | {} | {:.2f} | {:.2f} | {:.2f} to {:.2f} | {:.2f} |".format(
        engine, ranks, beside, *middle[:2], min(ratios), max(ratios), middle[2]
    )


def _start(engine: Engine, ranks: int, size: Size) -> Variant:
    return OnRay(size) if engine == "ray" else Ranks(engine, ranks, size)


class Ranks:
    """Ranks in processes, as torchrun starts them."""

    def __init__(self, engine: Engine, ranks: int, size: Size) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        together = (
            os.environ
            | ONE_KEPT_HEAP
            | {
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(ranks),
                "QDET_JOIN_SECRET": secrets.token_hex(),
            }
        )
        command = [sys.executable, "-m", "benchmarks.engine", "--worker", engine, size]
        numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        self._ranks = [Stepper(command, together | number, HERE) for number in numbers]

    def step(self) -> list[Cost]:
        """Make a step on all ranks at once."""
        for rank in self._ranks:
            rank.begin()
        return [rank.wait() for rank in self._ranks]

    def close(self) -> None:
        """End the processes."""
        for rank in self._ranks:
            rank.close()


class OnRay:
    """The plain engine in an actor of a Ray of its own."""

    def __init__(self, size: Size) -> None:
        import ray

        variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)} | ONE_KEPT_HEAP
        environment = {"env_vars": variables}
        ray.init(address="local", num_cpus=1, include_dashboard=False, runtime_env=environment)
        actors: Any = ray.remote(num_cpus=0)(Worker)
        self._ray, self._actor = ray, actors.remote(size)

    def step(self) -> list[Cost]:
        """Make a step."""
        return [self._ray.get(self._actor.step.remote())]

    def close(self) -> None:
        """End the cluster."""
        self._ray.shutdown()


class Worker:
    """What an actor holds."""

    def __init__(self, size: Size) -> None:
        self._step = make_step("plain", size)

    def step(self) -> Cost:
        """Make a step."""
        return measure(self._step)


def make_step(engine: Engine, size: Size) -> Callable[[], float]:
    """Return a step of this rank, which returns the loss."""
    import torch

    from qdet.backbones import ResNetConfig
    from qdet.detectors import AdaMixerConfig
    from qdet.losses import SetLossConfig
    from qdet.training.distributed import join
    from qdet.types import Targets

    world = join("cpu", timeout=600)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval", weights=None), queries=100)
    detector = (config if size == "full" else config.demo()).build(80).train()
    criterion, sizes = SetLossConfig().build(80), torch.tensor(SIZES_HW[size])
    torch.manual_seed(1 + world.rank)  # every rank has images of its own
    images = torch.randint(0, 256, (len(sizes), 3, *sizes.amax(0).tolist()), dtype=torch.uint8)
    corners = sizes.amin() / 2 * torch.rand(len(sizes) * OBJECTS, 2)
    boxes = torch.cat((corners, corners + 8 + sizes.amin() / 4 * torch.rand(len(corners), 2)), dim=1)
    targets = Targets(boxes, torch.randint(0, 80, (len(boxes),)), (OBJECTS,) * len(sizes))
    run = _make_bare(detector) if engine in ("bare", "ddp") else _make_engine(engine, detector, len(sizes))

    def step() -> float:
        loss = []

        def forward(module: Any) -> Any:
            loss.append(criterion(module(images, sizes), targets, sizes, normalizer=float(len(boxes))).total)
            return loss[0]

        run(forward)
        return loss[0].item()

    return step


Run = Callable[[Callable[[Any], Any]], None]
"""Makes a step of the loss that its argument computes with the module."""


def _make_bare(detector: Any) -> Run:
    """Return a step as one writes it by hand, on several ranks with torch's DDP."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    ranks = dist.get_world_size()
    module = DistributedDataParallel(detector, gradient_as_bucket_view=True) if ranks > 1 else detector
    trained = [p for p in detector.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-6, weight_decay=1e-4, fused=True)

    def run(forward: Callable[[Any], Any]) -> None:
        forward(module).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        adamw.step()
        adamw.zero_grad()

    return run


def _make_engine(engine: Engine, detector: Any, images: int) -> Run:
    """Return a step of an engine of training."""
    import torch
    import torch.distributed as dist

    from qdet.job import OptimConfig, TrainConfig
    from qdet.training.distributed import World
    from qdet.training.engine.build import build_engine

    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    zero: Any = int(engine[-1]) if engine.startswith("zero") else 0
    whole = images * world.size
    train = TrainConfig(batch_size=whole, workers=world.size, precision="fp32", zero=zero, accelerator="cpu")
    made = build_engine(detector, train, OptimConfig(lr=1e-6, weight_decay=1e-4, clip_norm=1.0), world)

    def run(forward: Callable[[Any], Any]) -> None:
        made.backward(forward(made))
        made.step(1.0)

    return run


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(make_step(*sys.argv[2:4]))  # type: ignore[arg-type]
    else:
        tyro.cli(main)
