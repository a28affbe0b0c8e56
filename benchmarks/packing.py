"""Speed of conversion to shards relative to copying the same files, for docs/data.md.

    OMP_NUM_THREADS=1 python -m benchmarks.packing --images /data/coco/val2017 --folder /dev/shm

The files are first copied until there are enough of them, which puts them into the page cache, and get an
annotation file with as many objects and polygons as COCO's. Then these take turns: copying one by one
(`shutil.copyfile`), concatenating into one file with its sha256, and whole conversions (from reading
annotations to writing the manifest) in one process and in the default number. Ratios are medians over
turns; ratios of CPU time also hold on a busy machine.
"""

import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
from PIL import Image as PillowImage

from data_prep.coco_to_shards import Conversion, convert

OBJECTS = 7
"""Objects per image, as in COCO."""
POLYGON = [12.25, 34.5] * 22
"""An object's outline, about as long as COCO's."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What to measure."""

    images: Path
    """Folder of images."""
    folder: Path | None = None
    """Where to write, by default the temporary folder; /dev/shm leaves out the disk."""
    megabytes: int = 1500
    """Megabytes to copy and convert per turn; many shards, so that all processes end together."""
    turns: int = 5
    """Turns of each work."""
    decode: bool = False
    """Decode every image too."""
    processes: int = min(os.cpu_count() or 1, 8)
    """Processes of the second conversion."""


@dataclass(frozen=True)
class Spent:
    """CPU and wall time in seconds."""

    cpu: float
    wall: float


def measure(measurement: Measurement) -> None:
    """Print seconds and ratios."""
    with TemporaryDirectory(prefix="qdet-packing-", dir=measurement.folder) as name:
        folder = Path(name)
        files = _prepare(measurement, folder)
        total = sum(file.stat().st_size for file in files)
        print(f"{len(files)} files of {total / len(files) / 1e3:.0f} kB")
        several = measurement.processes
        works: dict[str, Callable[[], None]] = {
            "copying": lambda: _copy(files, folder / "copies"),
            "concatenating and hashing": lambda: _concatenate(files, folder / "copies" / "all"),
            "converting": lambda: _convert(folder, 1, measurement.decode),
            f"converting, {several} processes": lambda: _convert(folder, several, measurement.decode),
        }
        spent: dict[str, list[Spent]] = {work: [] for work in works}
        for turn in range(measurement.turns + 1):
            for work, run in works.items():
                shutil.rmtree(folder / "copies", ignore_errors=True)
                shutil.rmtree(folder / "shards", ignore_errors=True)
                os.sync()  # let the disk finish the previous work
                spending = _time(run)
                if turn:  # the first turn pays for imports
                    spent[work].append(spending)
    base = spent.pop("copying")
    print(f"copying: {_format_rate(total, base)}")
    for work, times in spent.items():
        cpu = statistics.median(b.cpu / t.cpu for b, t in zip(base, times, strict=True))
        wall = statistics.median(b.wall / t.wall for b, t in zip(base, times, strict=True))
        shown = f"{cpu:.2f} in CPU time, " if "processes" not in work else ""
        print(f"{work}: {_format_rate(total, times)}; speed over copying: {shown}{wall:.2f} in wall time")


def _prepare(measurement: Measurement, folder: Path) -> list[Path]:
    """Copy the images until there are enough into a COCO-format dataset; return the copies."""
    sources = sorted(p for p in measurement.images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not sources:
        raise SystemExit(f"--images {measurement.images} holds no .jpg or .png files")
    sizes = {}
    for source in sources:
        with PillowImage.open(source) as image:
            sizes[source] = image.size
    for subfolder in ("train", "annotations"):
        (folder / "coco" / subfolder).mkdir(parents=True)
    copies: list[Path] = []
    images, annotations, total = [], [], 0
    while total < measurement.megabytes * 1e6:
        source = sources[len(copies) % len(sources)]
        copies.append(folder / "coco" / "train" / f"{len(copies)}{source.suffix}")
        total += shutil.copyfile(source, copies[-1]).stat().st_size
        width, height = sizes[source]
        number = len(copies)
        images.append({"id": number, "file_name": copies[-1].name, "width": width, "height": height})
        annotations += [_make_annotation(number, OBJECTS * number + k) for k in range(OBJECTS)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "one"}]}
    (folder / "coco" / "annotations" / "instances_train.json").write_text(json.dumps(content))
    os.sync()
    return copies


def _make_annotation(image_id: int, number: int) -> dict[str, Any]:
    box = [1.25, 2.5, 10.0, 9.0]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": 90.0,
        "iscrowd": 0,
        "segmentation": [POLYGON],
    }


def _copy(files: Sequence[Path], target: Path) -> None:
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def _concatenate(files: Sequence[Path], target: Path) -> None:
    """The minimum work for a shard with a checksum: read, hash and append."""
    target.parent.mkdir()
    hashed = hashlib.sha256()
    with target.open("wb") as out:
        for file in files:
            data = file.read_bytes()
            hashed.update(data)
            out.write(data)


def _convert(folder: Path, processes: int, decode: bool) -> None:
    out = folder / "shards"
    convert(Conversion(coco=folder / "coco", split="train", out=out, processes=processes, decode=decode))


def _time(work: Callable[[], None]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)


def _format_rate(total: int, times: Sequence[Spent]) -> str:
    cpu, wall = min(t.cpu for t in times), min(t.wall for t in times)
    return f"{total / wall / 1e6:.0f} MB/s at best, {1e9 * cpu / total:.2f} s of CPU per GB"


if __name__ == "__main__":
    measure(tyro.cli(Measurement, description=__doc__))
