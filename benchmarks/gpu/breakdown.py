"""Where the time of a step goes: how busy the device is, its longest kernels, who makes the host wait."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.scenes import TrainingStep, build_detector, make_scene
from benchmarks.gpu.steps import with_kernels
from benchmarks.timing import synchronize

STEPS, LONGEST = 3, 20
ROOT = Path(__file__).parents[2]


def measure_breakdown(bench: Bench) -> Lines:
    """Busy share, launches and longest kernels in torch and with kernels, then the syncs of a step."""
    scale = bench.scale
    for name, shape in scale.steps.items():
        task = TrainingStep(build_detector(scale, shape[3]), scale).on(
            make_scene(shape, scale.device, seed=bench.seed), queries=shape[3]
        )
        for choice in ("torch",) if bench.wrong else ("torch", "auto"):
            step = with_kernels(choice, task)
            for _ in range(scale.warmup):
                step()
            yield {"name": name, "variant": f"kernels {choice}"} | profile_steps(step, scale.device)
        with find_syncs(scale.device) as syncs:
            task()
        counted = Counter(syncs)
        yield {
            "name": name,
            "variant": "syncs of a step",
            "count": len(syncs),
            "frames": counted.most_common(),
        }


def profile_steps(step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Return launches, busy share and longest kernels of `STEPS` steps."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        for _ in range(STEPS):
            step()
        synchronize(device)
    of_device = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    events = [e for e in profiled.events() or [] if e.device_type == of_device]
    spans = sorted((e.time_range.start, e.time_range.end) for e in events)
    times: Counter[str] = Counter()
    for event in events:
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        times[event.name] += own / STEPS / 1e3
    busy, whole = cover(spans), spans[-1][1] - spans[0][0] if spans else 0.0
    return {
        "busy_share": busy / whole if whole else 0.0,
        "launches": len(events) / STEPS,
        "ms": whole / STEPS / 1e3,
        "longest": [[name[:120], round(ms, 4)] for name, ms in times.most_common(LONGEST)],
    }


def cover(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of sorted intervals."""
    length, until = 0.0, float("-inf")
    for begin, end in spans:
        length += max(0.0, end - max(begin, until))
        until = max(until, end)
    return length


@contextmanager
def find_syncs(device: torch.device) -> Iterator[list[str]]:
    """Collect `file:line` of our innermost frame for every wait for the device; nothing on a CPU."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    before = warnings.showwarning

    def show(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            place = Path(filename)
            found.append(f"{place.relative_to(ROOT) if place.is_relative_to(ROOT) else place}:{lineno}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = before
