"""Times of variants that run by turns: a GPU's by its events, else CPU time, which other load moves less."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Task = Callable[[], Any]
Clock = Callable[[Task], float]
"""Runs a task and returns its milliseconds."""


def clock_of(device: torch.device) -> Clock:
    """Return what times a task on `device`, until the device is done."""
    return _time_events if device.type == "cuda" else _time_host


def take_turns(
    variants: Mapping[str, Task], device: torch.device, *, rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Run `variants` by turns; return the milliseconds of each, round by round, without the first ones."""
    clock = clock_of(device)
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warmup + rounds):
        for name, task in variants.items():
            taken = clock(task)
            if number >= warmup:
                found[name].append(taken)
    return found


def summarize(milliseconds: list[float]) -> dict[str, Any]:
    """Return what a line says of the rounds of one variant."""
    return {
        "ms": statistics.median(milliseconds),
        "least_ms": min(milliseconds),
        "most_ms": max(milliseconds),
        "rounds": len(milliseconds),
    }


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time_events(task: Task) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    task()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def _time_host(task: Task) -> float:
    begin = time.process_time()
    task()
    return 1e3 * (time.process_time() - begin)
