"""How fast images become shards, beside copying the same files, for docs/data.md.

    OMP_NUM_THREADS=1 python -m benchmarks.packing --images /data/coco/val2017 --folder /dev/shm

The files are copied until there are enough of them, so that they lie in memory. Then copying them one by one
(`shutil.copyfile`), writing them behind each other into one file with its sha256, and packing them as a
conversion does by default take turns, the last also with as many processes as a conversion starts. Ratios are
medians over turns; what a ratio of CPU times says holds on a busy machine too.
"""

import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from PIL import Image as PillowImage

from data_prep.annotations import Box, Image
from data_prep.image_checks import Checks
from data_prep.packing import ShardTask, pack
from data_prep.spreading import spread
from data_prep.store import LocalStore

BOXES = tuple(
    Box(id=i, category_id=1, xywh=(1.25, 2.5, 10.0, 9.0), area=90.0, iscrowd=0) for i in range(1, 8)
)
"""As many as an image of COCO has."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What to measure with."""

    images: Path
    """Folder of images."""
    folder: Path | None = None
    """Where to write; by default where temporary files go. In /dev/shm no disk is measured."""
    megabytes: int = 512
    """How much to copy and pack in every turn."""
    shard_megabytes: int = 128
    """Size of a shard, as in a conversion."""
    turns: int = 5
    """How often each is measured."""
    decode: bool = False
    """Decode every image too."""
    processes: int = min(os.cpu_count() or 1, 8)
    """Processes for the wall time, as in a conversion."""


@dataclass(frozen=True)
class Spent:
    """Seconds."""

    cpu: float
    wall: float


def measure(measurement: Measurement) -> None:
    """Print seconds and ratios."""
    with TemporaryDirectory(prefix="qdet-packing-", dir=measurement.folder) as name:
        folder = Path(name)
        tasks = _prepare(measurement, folder)
        files = [task.images_folder / image.file_name for task in tasks for image in task.images]
        total = sum(length for task in tasks for length in task.lengths)
        print(f"{len(files)} files of {total / len(files) / 1e3:.0f} kB, {len(tasks)} shards")
        works: dict[str, Callable[[], None]] = {
            "copying": lambda: _copy(files, folder / "copies"),
            "concatenating and hashing": lambda: _concatenate(files, folder / "copies" / "all"),
            "packing": lambda: _pack(tasks, 1),
            f"packing, {measurement.processes} processes": lambda: _pack(tasks, measurement.processes),
        }
        works["packing"]()  # imports what it needs
        spent: dict[str, list[Spent]] = {work: [] for work in works}
        for _ in range(measurement.turns):
            for work, run in works.items():
                shutil.rmtree(folder / "copies", ignore_errors=True)
                shutil.rmtree(folder / "shards", ignore_errors=True)
                os.sync()  # the disk still writes what the one before wrote
                spent[work].append(_spent(run))
    base = spent.pop("copying")
    print(f"copying: {_rate(total, base)}")
    for work, times in spent.items():
        cpu = statistics.median(b.cpu / t.cpu for b, t in zip(base, times, strict=True))
        wall = statistics.median(b.wall / t.wall for b, t in zip(base, times, strict=True))
        shown = f"{cpu:.2f} in CPU time, " if "processes" not in work else ""
        print(f"{work}: {_rate(total, times)}; speed over copying: {shown}{wall:.2f} in wall time")


def _prepare(measurement: Measurement, folder: Path) -> list[ShardTask]:
    """Copy the images until there are enough, as the tasks of a conversion."""
    sources = sorted(p for p in measurement.images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not sources:
        raise SystemExit(f"--images {measurement.images} holds no .jpg or .png files")
    images_folder = folder / "images"
    images_folder.mkdir()
    sizes = {}
    for source in sources:
        with PillowImage.open(source) as image:
            sizes[source] = image.size
    tasks = [_empty_task(folder, images_folder, 0, measurement.decode)]
    total, number = 0, 0
    while total < measurement.megabytes * 1e6:
        source = sources[number % len(sources)]
        name = f"{number}{source.suffix}"
        length = len(shutil.copyfile(source, images_folder / name).read_bytes())
        if sum(tasks[-1].lengths) + length > measurement.shard_megabytes * 1e6:
            tasks.append(_empty_task(folder, images_folder, len(tasks), measurement.decode))
        width, height = sizes[source]
        image = Image(id=number, file_name=name, width=width, height=height, boxes=BOXES)
        last = tasks[-1]
        tasks[-1] = replace(last, images=(*last.images, image), lengths=(*last.lengths, length))
        total, number = total + length, number + 1
    os.sync()
    return tasks


def _empty_task(folder: Path, images_folder: Path, number: int, decode: bool) -> ShardTask:
    return ShardTask(
        store=LocalStore(folder / "shards"),
        name=f"train-{number:06d}.tar",
        images_folder=images_folder,
        images=(),
        lengths=(),
        checks=Checks(max_pixels=100_000_000, decode=decode),
        max_bad=0,
    )


def _copy(files: Sequence[Path], target: Path) -> None:
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def _concatenate(files: Sequence[Path], target: Path) -> None:
    """The least that a shard with a checksum can cost: read, hash and append."""
    target.parent.mkdir()
    hashed = hashlib.sha256()
    with target.open("wb") as out:
        for file in files:
            data = file.read_bytes()
            hashed.update(data)
            out.write(data)


def _pack(tasks: Sequence[ShardTask], processes: int) -> None:
    for _ in spread(pack, tasks, processes=processes):
        pass


def _spent(work: Callable[[], None]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)


def _rate(total: int, times: Sequence[Spent]) -> str:
    cpu, wall = min(t.cpu for t in times), min(t.wall for t in times)
    return f"{total / wall / 1e6:.0f} MB/s at best, {1e9 * cpu / total:.2f} s of CPU per GB"


if __name__ == "__main__":
    measure(tyro.cli(Measurement, description=__doc__))
