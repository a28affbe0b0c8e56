"""How plan, ledger, index, checkpoint commit and step exchange grow, at simulated sizes.

    python -m benchmarks.scale                      # the numbers in docs/scale.md, a minute of CPU time

CPU seconds of one process with one thread. Sizes of images are computed, not read, where an index would fill
the disk; everything else is the code that trains.
"""

import hashlib
import json
import multiprocessing
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from fsspec.implementations.memory import MemoryFileSystem
from jaxtyping import Int64

from qdet.checkpoint.rank_file import fingerprint
from qdet.checkpoint.state import TrainState
from qdet.checkpoint.writing import Contents, commit, share_name
from qdet.data.augment import AugmentConfig
from qdet.data.plan.epoch import EpochPlan, Plan
from qdet.data.plan.ledger import Ledger, account, check_distinct
from qdet.data.plan.order import Order
from qdet.data.plan.received import merge
from qdet.data.shards.index import COLUMNS, Index, index_from_file
from qdet.data.shards.shard_set import samples_by_shard
from qdet.storage import Folder
from qdet.storage.folder import AT_ONCE
from qdet.storage.remote import RemoteFiles
from qdet.training.health.stragglers import Stragglers

DETR = AugmentConfig(crop=True)
PLANS = ((118_287, 16), (10_000_000, 16), (10_000_000, 1024), (100_000_000, 1024), (1_000_000_000, 1024))
"""Images, and images of a global batch."""
RANKS = (8, 64, 1000)
PARTS = ("plan", "ledger", "index", "commit", "exchange")


class ComputedSizes:
    """Sizes of any number of images, without an index."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, rows: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, "m 2"]:
        return np.stack([rows * 7919 % 341 + 300, rows * 6007 % 341 + 300], axis=1)


def main(*, parts: Sequence[str] = PARTS) -> None:
    """Measure and print tables.

    Args:
        parts: What to measure.
    """
    for part in parts:
        {"plan": plan, "ledger": ledger, "index": index, "commit": commits, "exchange": exchange}[part]()


def plan() -> None:
    """Print what a rank's plan costs before the first batch and on the way."""
    head = ("images", "global batch", "first batch, s", "a step, ms", "most memory, MB", "kept, MB")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        print_table(head, (pool.apply(_plan, case) for case in PLANS))


def _plan(images: int, batch: int) -> tuple[str, ...]:
    def first() -> tuple[EpochPlan, Plan]:
        plan = EpochPlan(ComputedSizes(images), DETR, seed=0, epoch=1, global_batch=batch)
        return plan, plan.window(0)

    seconds = cpu_seconds(first)
    tracemalloc.start()
    plan, window = first()
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    each = cpu_seconds(lambda: plan.window(plan.windows // 2)) / len(window.rows)
    measured = (f"{seconds:.2f}", f"{each * 1e3:.2f}", f"{most / 1e6:.0f}", f"{kept / 1e6:.0f}")
    return f"{images:,}", f"{batch}", *measured


def ledger() -> None:
    """Print what counting costs: a rank's state, a step, and an epoch's verdict over all ranks."""
    head = ("images", "ranks", "state of a rank, bytes", "a step, µs", "verdict over all ranks, ms")
    print_table(head, (_ledger(images, ranks) for images in (118_287, 10_000_000) for ranks in RANKS))


def _ledger(images: int, ranks: int) -> tuple[str, ...]:
    columns = {name: np.broadcast_to(np.full(1, 300, kind), images) for name, kind in COLUMNS.items()}
    columns["image_id"] = np.arange(images)
    order = Order(index=Index(**columns), augment=AugmentConfig(), batch_size=2 * ranks, seed=0)
    ledgers = [Ledger(order, rank=rank, world_size=ranks) for rank in range(ranks)]
    rows = [step.rows for step in order.steps(0, 50)]

    def record() -> None:
        for rank, one in enumerate(ledgers):
            for step in rows:  # ids are rows here
                one.record(step[2 * rank : 2 * rank + 2])

    seconds = cpu_seconds(record)
    received = [one.received for one in ledgers]
    verdict = cpu_seconds(lambda: account(merge(received), order, 50).check())
    size = received[-1].to_tensor(images).numel() * 8
    return f"{images:,}", f"{ranks}", f"{size}", f"{seconds / ranks / 50 * 1e6:.0f}", f"{verdict * 1e3:.1f}"


def index() -> None:
    """Print what it takes to open an index, and to see that no two images have one id."""
    head = ("images", "index, MB", "hash, s", "count by shard, s", "ids in order, s", "ids in any order, s")
    print_table(head, (_index(images) for images in (100_000, 1_000_000, 5_000_000)))


def _index(images: int) -> tuple[str, ...]:
    columns = {name: np.ones(images, kind) for name, kind in COLUMNS.items()}
    columns |= {"shard": np.arange(images, dtype=np.uint32) // 1000, "image_id": np.arange(images)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index.npz"
        file.write_bytes(Index(**columns).to_bytes())
        size = file.stat().st_size / 1e6
        with file.open("rb") as content:
            hashing = cpu_seconds(lambda: hashlib.file_digest(content, "sha256"))
        read = index_from_file(file)
        counting = cpu_seconds(lambda: samples_by_shard(read, images // 1000))
        ordered = cpu_seconds(lambda: check_distinct(read.image_id))
    mixed = np.random.default_rng(0).permutation(images)
    shuffled = cpu_seconds(lambda: check_distinct(mixed))
    return f"{images:,}", f"{size:.0f}", *(f"{s:.2f}" for s in (hashing, counting, ordered, shuffled))


class CountingFiles(MemoryFileSystem):
    """An object store in memory that counts its requests by kind."""

    protocol = "s3"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store, self.pseudo_dirs, self.asked = {}, [""], list[str]()

    def info(self, path: str, **options: Any) -> Any:
        """Answer a HEAD."""
        self.asked.append("HEAD")
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """Answer a LIST."""
        self.asked.append("LIST")
        return super().ls(path, detail=detail, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Answer a GET."""
        self.asked.append("GET")
        return super().cat_file(path, start=start, end=end, **options)

    def put_file(self, lpath: str, rpath: str, *_: Any, **options: Any) -> None:
        """Answer a PUT."""
        self.asked.append("PUT")
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def rm_file(self, path: str) -> None:
        """Answer a DELETE."""
        self.asked.append("DELETE")
        super().rm_file(path)


def commits() -> None:
    """Print what rank 0 asks of an object store to complete a checkpoint."""
    head = ("ranks", "requests", "in rounds", "at 30 ms each, s", "CPU, s")
    print_table(head, map(_commit, RANKS))


def _commit(ranks: int) -> tuple[str, ...]:
    files = CountingFiles()
    folder = Folder("s3://bucket/run", RemoteFiles(files), "/bucket/run")
    for rank in range(ranks):
        name, content = f"{folder.path}/{share_name(rank, 'aa')}", b"%d" % rank
        files.pipe_file(f"{name}.safetensors", content)
        files.pipe_file(f"{name}.json", json.dumps(asdict(fingerprint(content)) | {"attempt": "aa"}).encode())
    state = TrainState(
        step=1, updates=1, ema_updates=0, seed=0, batch_size=1, data_digest="", plan_version=1,
        categories={"names": ["a"], "ids": [1]}, git_commit=None,
    )  # fmt: skip
    contents = Contents(attempt="aa", world_size=ranks, state=state, job={}, shapes={})
    files.asked.clear()
    seconds = cpu_seconds(lambda: commit(folder, contents))
    together = sum(kind in ("GET", "DELETE") for kind in files.asked)
    rounds = len(files.asked) - together + 2 * -(-ranks // AT_ONCE)
    return f"{ranks}", f"{len(files.asked)}", f"{rounds}", f"{rounds * 0.03:.1f}", f"{seconds:.2f}"


def exchange() -> None:
    """Print what every rank does with the times of all ranks in a step."""
    head = ("ranks", "summed in a step, kB", "comparing the ranks, ms a step")
    print_table(head, map(_exchange, RANKS))


def _exchange(ranks: int) -> tuple[str, ...]:
    times = np.random.default_rng(0).uniform(0.5, 0.6, (200, ranks, 2))
    stragglers = Stragglers()
    seconds = cpu_seconds(lambda: [stragglers.add(step) for step in times])
    return f"{ranks}", f"{(2 * ranks + 6) * 8 / 1e3:.1f}", f"{seconds / 200 * 1e3:.2f}"


def cpu_seconds(act: Callable[[], object]) -> float:
    """Return the CPU seconds that this process spends on `act`."""
    before = time.process_time()
    act()
    return time.process_time() - before


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n| {' | '.join(head)} |\n| {' | '.join('--:' for _ in head)} |")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
