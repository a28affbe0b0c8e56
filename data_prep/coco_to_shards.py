"""COCO-format images and annotations to WebDataset shards.

    python -m data_prep.coco_to_shards --coco DIR --split train2017 --out data/coco/train2017
    python -m data_prep.coco_to_shards --images DIR --annotations FILE --split train --out data/mine/train

Image files are copied byte for byte. A conversion that was interrupted goes on where it stopped, one that is
finished says so and does nothing, and the same input always gives the same bytes.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from data_prep.annotations import Annotations, Image, read_annotations
from data_prep.atomic import write_atomically
from data_prep.command_line import command
from data_prep.manifest import describe, manifest_of, write_manifest
from data_prep.packing import ShardTask, finished, pack
from qdet.errors import ConfigError, DataError

_PARTS = ".parts"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What to convert, and how it is cut into shards."""

    split: str
    """Name of the split; with --coco its images are in DIR/SPLIT."""
    out: Path
    """Folder for the shards of this split alone."""
    coco: Path | None = None
    """Folder in COCO's layout: SPLIT/*.jpg and annotations/instances_SPLIT.json."""
    images: Path | None = None
    """Folder of the images, if they are elsewhere."""
    annotations: Path | None = None
    """Annotation file, if it is elsewhere."""
    shard_megabytes: float = 128.0
    """Image bytes per shard."""
    seed: int = 0
    """Order of the images in the shards."""
    decode: bool = True
    """Decode every image once, so that a damaged one is found now and not in epoch seven."""
    max_pixels: int = 100_000_000
    """Largest image that is taken."""
    renumber: bool = False
    """Give annotations new ids, for files where ids are missing, 0 or not unique."""
    processes: int = 0
    """Processes that write shards; 0 takes one per CPU, up to 8."""

    def __post_init__(self) -> None:
        """Reject what could never convert, in the words of the command line."""
        if self.coco is None and (self.images is None or self.annotations is None):
            raise ConfigError("name the dataset with --coco DIR, or with --images DIR and --annotations FILE")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.split):
            raise ConfigError(f"--split may have letters, digits, - and _ (no dots), got {self.split!r}")
        if not 0 < self.shard_megabytes <= 8192:
            raise ConfigError(
                f"--shard-megabytes must be above 0 and at most 8192, got {self.shard_megabytes}"
            )
        if self.max_pixels < 1:
            raise ConfigError(f"--max-pixels must be at least 1, got {self.max_pixels}")
        if self.processes < 0:
            raise ConfigError(f"--processes must be 0 (one per CPU) or more, got {self.processes}")

    @property
    def images_folder(self) -> Path:
        """Where the images are."""
        return self.images or (self.coco or Path()) / self.split

    @property
    def annotation_file(self) -> Path:
        """Where the annotations are."""
        return self.annotations or (self.coco or Path()) / "annotations" / f"instances_{self.split}.json"


def convert(conversion: Conversion, *, console: Console | None = None) -> dict[str, Any]:
    """Convert one split; return its manifest. Finished shards of an interrupted conversion are kept."""
    console = console or Console(quiet=True)
    content = read_annotations(conversion.annotation_file, renumber=conversion.renumber)
    tasks = plan_shards(conversion, content)
    plan = _plan_hash(conversion, content, tasks)
    done = manifest_of(conversion.out, plan)
    if done is not None:
        console.print(f"{conversion.out} is already converted: nothing to do")
        return done
    parts = _claim(conversion.out, plan, tasks)
    shards = _pack_all(tasks, parts, _processes(conversion, tasks), console)
    manifest = write_manifest(conversion.out, conversion.split, content, shards, plan)
    shutil.rmtree(parts)
    console.print(describe(manifest, conversion.out))
    return manifest


def plan_shards(conversion: Conversion, content: Annotations) -> list[ShardTask]:
    """Shuffle the images once, so that plain webdataset readers get mixed shards too, and cut by size."""
    folder = conversion.images_folder
    if not folder.is_dir():
        raise DataError(f"{folder} is not there; name the folder of the images with --images")
    order = np.random.Generator(np.random.Philox(key=conversion.seed)).permutation(len(content.images))
    images = [content.images[i] for i in order]
    lengths = _lengths(images, folder, content.file)
    limit = conversion.shard_megabytes * 1e6
    groups: list[list[int]] = [[]]
    size = 0
    for i, length in enumerate(lengths):
        if groups[-1] and size + length > limit:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += length
    return [
        ShardTask(
            tar=conversion.out / f"{conversion.split}-{number:06d}.tar",
            images_folder=folder,
            images=tuple(images[i] for i in group),
            lengths=tuple(lengths[i] for i in group),
            max_pixels=conversion.max_pixels,
            decode=conversion.decode,
        )
        for number, group in enumerate(groups)
    ]


def _lengths(images: Sequence[Image], folder: Path, file: Path) -> list[int]:
    lengths, missing = [], []
    for image in images:
        try:
            lengths.append((folder / image.file_name).stat().st_size)
        except OSError:
            missing.append(f"{image.file_name} (image {image.id})")
    if missing:
        first = ", ".join(sorted(missing)[:5])
        raise DataError(
            f"{file} lists {len(missing)} images that are not in {folder}: {first}"
            f"{', ...' if len(missing) > 5 else ''}; complete the download or name their folder with --images"
        )
    return lengths


def _plan_hash(conversion: Conversion, content: Annotations, tasks: Sequence[ShardTask]) -> str:
    plan = {
        "split": conversion.split,
        "categories": content.categories.to_coco(),
        "shards": [task.plan for task in tasks],
        "report": content.report,
    }
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _claim(out: Path, plan: str, tasks: Sequence[ShardTask]) -> Path:
    """Make the folder of markers, unless another dataset lives in `out`."""
    parts = out / _PARTS
    note = parts / "plan"
    try:
        other = [p.name for p in sorted(out.glob("*.tar")) if p not in {task.tar for task in tasks}]
        claimed = note.read_text() if note.is_file() else None
        foreign = claimed is None and any(out.glob("*.tar"))
        if other or foreign or claimed not in (None, plan):
            raise DataError(
                f"{out} holds shards of another dataset or of other settings"
                f"{' (' + other[0] + ')' if other else ''}; delete it or choose another --out"
            )
        parts.mkdir(parents=True, exist_ok=True)
        for leftover in (*out.glob(".*.tmp-*"), *parts.glob(".*.tmp-*")):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror or error}") from error
    write_atomically(note, plan.encode())
    return parts


def _processes(conversion: Conversion, tasks: Sequence[ShardTask]) -> int:
    return min(conversion.processes or min(os.cpu_count() or 1, 8), len(tasks))


def _pack_all(
    tasks: Sequence[ShardTask], parts: Path, processes: int, console: Console
) -> list[dict[str, Any]]:
    markers = [parts / task.tar.with_suffix(".json").name for task in tasks]
    shards = [finished(task, marker) for task, marker in zip(tasks, markers, strict=True)]
    left = [i for i, shard in enumerate(shards) if shard is None]
    if len(left) < len(tasks):
        console.print(f"{len(tasks) - len(left)} of {len(tasks)} shards are already there")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown as progress:
        bar = progress.add_task("writing shards", total=len(tasks), completed=len(tasks) - len(left))
        if processes <= 1:
            for i in left:
                shards[i] = pack(tasks[i], markers[i])
                progress.advance(bar)
        else:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                futures = {pool.submit(pack, tasks[i], markers[i]): i for i in left}
                try:
                    for future in as_completed(futures):
                        shards[futures[future]] = future.result()
                        progress.advance(bar)
                except BrokenProcessPool as error:
                    raise DataError(
                        "a process that wrote shards was killed, out of memory perhaps; finished shards are "
                        "kept, run the command again with fewer --processes"
                    ) from error
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
    return [shard for shard in shards if shard is not None]


def main(args: list[str] | None = None) -> None:
    """Command line of this module."""
    about = "Convert COCO-format images and annotations to WebDataset shards."
    command(Conversion, lambda conversion: convert(conversion, console=Console()), about=about, args=args)


if __name__ == "__main__":
    main()
