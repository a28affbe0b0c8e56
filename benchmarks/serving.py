"""Throughput and latency of `qdet serve`, compared with `Model.predict` in this process.

    python -m benchmarks.serving RUN --images data/demo/coco/val    # the numbers in docs/serving.md
    python -m benchmarks.serving RUN --images photos --url http://127.0.0.1:8000    # of a running service

Rounds are interleaved: `predict` with all images in batches, `predict` image by image, the service. Clients
keep `concurrency` requests under way over connections that stay open, one image each; they run in this
process, so on a small machine they take processor time from the service. Everything stays on loopback.

Where other programs use the machine, a service of several processes gets a larger part of it than `predict`
in one. Processor time per image, of all processes of the service, does not depend on that.
"""

import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import aiohttp
import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table

from qdet.inference.load import load
from qdet.inference.model import Model

START_SECONDS = 180.0
OTHERS = ("RAY_ADDRESS", "QDET_SERVE_TOKEN")
"""Variables under which the service would be another one."""


@dataclass(frozen=True, kw_only=True)
class ServingBenchmark:
    """What to measure."""

    model: tyro.conf.Positional[str]
    """A run, checkpoint or exported file."""
    images: Path
    """Folder of JPEG or PNG files."""
    count: int = 256
    """Images per round; the folder's are repeated."""
    batch: int | None = None
    """Images per forward pass, of both; by default as many as the job evaluated with."""
    concurrency: tuple[int, ...] = (32,)
    """Requests under way at a time, one column of the table each."""
    rounds: int = 5
    """Rounds, each of which runs everything once."""
    loop: bool = True
    """Also call `predict` image by image."""
    replicas: str = "1"
    """Of the service."""
    url: str | None = None
    """Of a service that runs already; by default one is started and stopped."""


@dataclass
class Timings:
    """Seconds of rounds and of single requests, by what was measured."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, count: int, taken: "Taken", latencies: Sequence[float] = ()) -> None:
        """Add a round."""
        self.rates.setdefault(name, []).append(count / taken.seconds)
        self.cpu.setdefault(name, []).append(taken.cpu / count)
        self.latencies.setdefault(name, []).extend(latencies)


@dataclass
class Taken:
    """Time that something took: by the clock, and of the processors."""

    seconds: float = 0.0
    cpu: float = 0.0


@contextmanager
def _measure(process: psutil.Process) -> Iterator[Taken]:
    """Measure the block, and the processor time of that process and all below it."""
    taken, began, cpu = Taken(), time.perf_counter(), _cpu_seconds(process)
    yield taken
    taken.seconds, taken.cpu = time.perf_counter() - began, _cpu_seconds(process) - cpu


def _cpu_seconds(process: psutil.Process) -> float:
    used = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            used += times.user + times.system
    return used


def main(config: ServingBenchmark) -> None:
    """Measure all and print the table."""
    files = sorted(f for f in config.images.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    data = [files[i % len(files)].read_bytes() for i in range(config.count)]
    model = load(config.model)
    batch = config.batch or model.description.eval.batch_size
    timings = Timings()
    with _service(config, batch) as (url, process):
        _measure_predict(model, data[: 2 * batch], batch, config.loop, Timings())  # warm up
        asyncio.run(_ask(url, data[: 2 * batch], batch))
        for _ in range(config.rounds):
            _measure_predict(model, data, batch, config.loop, timings)
            for concurrency in config.concurrency:
                with _measure(process) as taken:
                    latencies = asyncio.run(_ask(url, data, concurrency))
                timings.add(f"serve, {concurrency} at a time", len(data), taken, latencies)
    _print(timings, sum(map(len, data)) / len(data))


def _measure_predict(model: Model, data: list[bytes], batch: int, loop: bool, timings: Timings) -> None:
    own = psutil.Process()
    with _measure(own) as taken:
        model.predict(data, batch=batch, score=0.0)
    timings.add("predict, batches", len(data), taken)
    if not loop:
        return
    latencies = []
    with _measure(own) as taken:
        for one in data:
            start = time.perf_counter()
            model.predict(one, score=0.0)
            latencies.append(time.perf_counter() - start)
    timings.add("predict, one by one", len(data), taken, latencies)


async def _ask(url: str, data: Sequence[bytes], concurrency: int) -> list[float]:
    """Send each image once; return the seconds of every request."""
    waiting, latencies = iter(data), []
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:

        async def client() -> None:
            for image in waiting:
                start = time.perf_counter()
                headers = {"Content-Type": "application/octet-stream"}
                async with session.post(f"{url}/predict?score=0.3", data=image, headers=headers) as answer:
                    body = await answer.read()
                    if answer.status != 200:
                        raise RuntimeError(f"{answer.status}: {body[:200]!r}")
                latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(client() for _ in range(concurrency)))
    return latencies


@contextmanager
def _service(config: ServingBenchmark, batch: int) -> Iterator[tuple[str, psutil.Process]]:
    """Start `qdet serve` on a free port, yield its URL and process, and stop it."""
    if config.url is not None:
        port = int(config.url.rstrip("/").rpartition(":")[2])
        yield config.url.rstrip("/"), _find_listener(port)
        return
    command = [sys.executable, "-m", "qdet", "serve", config.model, "--port", "0", "--batch", str(batch)]
    command += ["--replicas", config.replicas, "--queue", str(max(64, 2 * max(config.concurrency)))]
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            yield _wait_for_url(process, log), psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)


def _find_listener(port: int) -> psutil.Process:
    """Return the ancestor of what listens there that runs `qdet serve`."""
    listening = [c.pid for c in psutil.net_connections() if c.laddr and c.laddr.port == port and c.pid]
    for process in (p for pid in listening for p in psutil.Process(pid).parents()):
        if "serve" in process.cmdline():
            return process
    raise RuntimeError(f"no qdet serve listens at port {port}")


def _wait_for_url(process: "subprocess.Popen[bytes]", log: IO[str]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        log.seek(0)
        found = re.search(r"serving at (\S+)", log.read())
        if found:
            return found[1]
        time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"the service did not start: {log.read()[-2000:]}")


def _print(timings: Timings, mean_bytes: float) -> None:
    reference = timings.rates["predict, batches"]
    table = Table(title=f"images of {mean_bytes / 1024:.0f} KiB; medians; ratios to predict on batches")
    for column in ("", "images/s", "p50 ms", "p99 ms", "CPU ms", "throughput", "by CPU"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rates in timings.rates.items():
        latencies = timings.latencies[name]
        p50, p99 = (f"{1000 * np.percentile(latencies, q):.0f}" if latencies else "" for q in (50, 99))
        cpu = statistics.median(timings.cpu[name])
        ratios = (
            statistics.median(a / b for a, b in zip(rates, reference, strict=True)),
            statistics.median(timings.cpu["predict, batches"]) / cpu,
        )
        numbers = f"{statistics.median(rates):.1f}", p50, p99, f"{1000 * cpu:.1f}"
        table.add_row(name, *numbers, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(ServingBenchmark))
