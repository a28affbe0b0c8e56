"""What it saves a CPU to keep freed memory: training steps and predictions, with it and without.

    python -m benchmarks.allocator

Each variant has a process of its own, of one thread, with the variables that workers start with or with
none for the allocator; they take turns, so that what else the machine does meets both. Linux only.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import tyro

from benchmarks.steppers import Cost, Stepper, serve
from qdet.allocator import ONE_KEPT_HEAP

HERE = Path(__file__).resolve().parents[1]
Work = Literal["step", "demo step", "prediction"]
SIZE_HW = (800, 1088)
"""Of the image that predictions are for."""


def main(*, only: tuple[Work, ...] = (), rounds: int = 6) -> None:
    """Print the CPU time and memory of each kind of work, relative to that without.

    Args:
        only: Kinds of work to measure; by default all.
        rounds: Times that each is done, after two for warm-up.
    """
    from benchmarks.machine import describe_machine

    print(json.dumps(describe_machine()))
    print("| work | without, s | ratio | rounds | most memory |\n| --- | --: | --: | --- | --: |", flush=True)
    for work in only or get_args(Work):
        print(_compare(work, rounds), flush=True)


def _compare(work: Work, rounds: int) -> str:
    """Do one kind of work with and without, and return its line.

    Raises:
        RuntimeError: The two compute something else.
    """
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.allocator", "--worker", work]
    processes = [Stepper(command, plain | settings, HERE) for settings in (ONE_KEPT_HEAP, {})]
    found: list[list[Cost]] = [[process.step() for process in processes] for _ in range(2 + rounds)]
    kept_mb, returned_mb = (process.peak_mb() for process in processes)
    for process in processes:
        process.close()
    for kept, returned in found:
        if kept.loss != returned.loss:
            raise RuntimeError(f"{work}: {kept.loss} where freed memory is kept, {returned.loss} elsewhere")
    ratios = [kept.cpu / returned.cpu for kept, returned in found[2:]]
    without = statistics.median(returned.cpu for _, returned in found[2:])
    return (
        f"| {work} | {without:.2f} | {statistics.median(ratios):.2f} "
        f"| {min(ratios):.2f} to {max(ratios):.2f} | {kept_mb / returned_mb:.2f} |"
    )


def make_work(work: Work) -> Callable[[], float]:
    """Return what does the work once; it returns a number that follows from all it computed."""
    from benchmarks.engine import make_step

    if work != "prediction":
        return make_step("plain", "demo" if work == "demo step" else "full")
    import torch

    from qdet.backbones import ResNetConfig
    from qdet.detectors import AdaMixerConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AdaMixerConfig(backbone=ResNetConfig(depth=50, norm="eval", weights=None), queries=100)
    detector = config.build(80).eval()
    images, sizes = torch.randint(0, 256, (1, 3, *SIZE_HW), dtype=torch.uint8), torch.tensor([SIZE_HW])

    def predict() -> float:
        with torch.no_grad():
            return detector(images, sizes)[-1].boxes_xyxy.sum().item()

    return predict


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(make_work(sys.argv[2]))  # type: ignore[arg-type]
    else:
        tyro.cli(main)
