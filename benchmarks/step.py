"""AdaMixer's training step with its update, of this checkout and of others, in turn.

    git worktree add ../before COMMIT
    python -m benchmarks.step --against ../before

Each checkout runs in a process of its own, on one rank and one thread, in fp32, with its own default
engine and the settings of the allocator that its workers on Ray have; all get the same weights and images. A
round is a step of each, so that what else the machine does meets all of them.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from benchmarks.steppers import Stepper

HERE = Path(__file__).resolve().parents[1]
SIZES = ((320, 448), (288, 416))
QUERIES, CLASSES, OBJECTS = 100, 80, 6
SETTINGS = "qdet.launching.ray_backend.worker_settings"


def main(*, against: tuple[Path, ...] = (), rounds: int = 6) -> None:
    """Print CPU seconds of a step by checkout, and their ratios to this one's.

    Args:
        against: Other checkouts.
        rounds: Steps of each, after one for warm-up.
    """
    from benchmarks.machine import describe_machine

    workers = {str(root): _start(root.resolve()) for root in (*against, HERE)}
    found: list[dict[str, float]] = []
    for _ in range(1 + rounds):
        found.append({name: worker.step().cpu for name, worker in workers.items()})
        print(json.dumps(found[-1]), flush=True)
    for worker in workers.values():
        worker.close()
    print(json.dumps(describe_machine()))
    print("| checkout | CPU, s | fastest | slowest | ratio to this one |\n| --- | --: | --: | --: | --: |")
    for name in workers:
        seconds = [one[name] for one in found[1:]]
        ratio = statistics.median(one[name] / one[str(HERE)] for one in found[1:])
        middle = statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {ratio:.2f} |")


def _start(root: Path) -> "Stepper":
    from benchmarks.steppers import Stepper

    variables = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    variables |= _memory_settings(root, variables)
    return Stepper([sys.executable, str(Path(__file__).resolve()), "--worker"], variables, root)


def _memory_settings(root: Path, variables: dict[str, str]) -> dict[str, str]:
    """Return what a checkout tells the allocator of its workers on CPUs; old ones tell it nothing."""
    code = f"import json; from {SETTINGS} import ONE_KEPT_HEAP; print(json.dumps(ONE_KEPT_HEAP))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode and "ImportError" not in done.stderr and "ModuleNotFoundError" not in done.stderr:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout) if not done.returncode else {}


def work() -> None:
    """Make a step for every line of standard input, as `steppers.serve` does, which old checkouts lack."""
    step = make_step()
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        loss = step()
        print(f"cost {time.process_time() - cpu} {time.perf_counter() - wall} {loss}", flush=True)


def make_step() -> Callable[[], float]:
    """Return the training step of the checkout that is imported; it returns the loss."""
    import torch

    from qdet.backbones import ResNetConfig
    from qdet.detectors import AdaMixerConfig
    from qdet.job import OptimConfig, TrainConfig
    from qdet.losses import SetLossConfig, matched_objects
    from qdet.training.distributed import join
    from qdet.types import Targets

    world = join("cpu", timeout=60)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval", weights=None), queries=QUERIES)
    detector, criterion = config.build(CLASSES).train(), SetLossConfig().build(CLASSES)
    sizes = torch.tensor(SIZES)
    images = torch.randint(0, 256, (len(SIZES), 3, *sizes.amax(0).tolist()), dtype=torch.uint8)
    corners = 200 * torch.rand(len(SIZES) * OBJECTS, 2)
    boxes = torch.cat((corners, corners + 20 + 60 * torch.rand(len(corners), 2)), dim=1)
    targets = Targets(boxes, torch.randint(0, CLASSES, (len(boxes),)), (OBJECTS,) * len(SIZES))
    train = TrainConfig(batch_size=len(SIZES), workers=1, precision="fp32", zero=1)
    engine = _engine_class()(detector, train, OptimConfig(), world)
    matched = matched_objects(targets, QUERIES)

    def step() -> float:
        loss = criterion(engine(images, sizes), targets, sizes, normalizer=matched).total
        engine.backward(loss)
        engine.step(1e-3)
        return loss.item()

    return step


def _engine_class() -> Callable[..., Any]:
    """Return what builds the engine, wherever the checkout has it."""
    import importlib

    for module, name in (
        ("qdet.training.engine.build", "build_engine"),
        ("qdet.training.zero", "ZeroEngine"),
    ):
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise RuntimeError("this checkout has no engine that is known here")


if __name__ == "__main__":
    work() if "--worker" in sys.argv else tyro.cli(main)
