"""Write a checked dataset as shards: planned, claimed, packed in parallel, the manifest last.

An interrupted conversion resumes where it stopped, a finished one is left as it is, and the same input always
gives the same bytes, however many processes or machines write them.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_prep.annotations.coco import Annotations
from data_prep.annotations.image_checks import Checks
from data_prep.output import open_output, write
from data_prep.packing.manifest import check_dropped, describe, manifest_of, write_manifest
from data_prep.packing.pack import ShardTask, load_finished, pack
from data_prep.packing.parallel import run_tasks
from data_prep.packing.settings import Packing, check_split_name
from data_prep.packing.shard_plan import count_respelled, drop_empty_images, hash_plan, plan_shards
from data_prep.progress import show_progress
from data_prep.wording import plural
from qdet.console import open_console, print_line
from qdet.data.shards.locate import UNFINISHED
from qdet.errors import DataError
from qdet.storage import Folder
from qdet.storage.atomic import is_unfinished


def pack_dataset(
    content: Annotations,
    images_folder: Path,
    *,
    split: str,
    out: str | Path,
    settings: Packing,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write one split as shards, reusing the finished shards of an interrupted conversion.

    Args:
        content: Its images and their objects.
        images_folder: Folder that the names of its images are relative to.
        split: Name of the split, and of its shards.
        out: Folder or URL for the shards of this split only.
        settings: How it is cut into shards.
        console: Where progress and the summary are printed; by default nowhere.

    Returns:
        The manifest.

    Raises:
        ConfigError: The split has a name that shards cannot have, or nothing opens such a URL.
        DataError: Bad images, or a destination that holds other shards.
    """
    check_split_name(split)
    console = console or open_console(quiet=True)
    if settings.drop_empty:
        content = drop_empty_images(content)
    store = open_output(out)
    tasks = _plan(content, images_folder, store, split, settings)
    if respelled := count_respelled(content, tasks):
        content = replace(content, report=content.report | {"images_found_by_another_spelling": respelled})
    plan = hash_plan(split, content, tasks)
    done = manifest_of(store, plan)
    if done is None:
        return _write(store, split, content, tasks, plan, settings, console)
    check_dropped(done, settings.max_bad)
    _tidy(store)
    print_line(console, f"{store} is already converted: nothing to do")
    return done


def _write(
    store: Folder,
    split: str,
    content: Annotations,
    tasks: Sequence[ShardTask],
    plan: str,
    settings: Packing,
    console: Console,
) -> dict[str, Any]:
    started = time.monotonic()
    _claim(store, plan, tasks)
    shards = _pack_all(tasks, settings, console)
    check_dropped({"dropped_images": [d for s in shards for d in s["dropped"]]}, settings.max_bad)
    manifest = write_manifest(store, split, content, shards, plan)
    _tidy(store)
    said = f"{describe(manifest, store)}\n  took {time.monotonic() - started:.1f} s"
    print_line(console, said)
    return manifest


def _plan(
    content: Annotations, images_folder: Path, store: Folder, split: str, settings: Packing
) -> list[ShardTask]:
    return plan_shards(
        content,
        images_folder,
        store,
        split=split,
        seed=settings.seed,
        shard_bytes=settings.shard_megabytes * 1e6,
        checks=Checks(max_pixels=settings.max_pixels, decode=settings.decode),
        max_bad=settings.max_bad,
    )


def _claim(store: Folder, plan: str, tasks: Sequence[ShardTask]) -> None:
    """Record the plan in the destination; refuse one that holds another dataset."""
    note = f"{UNFINISHED}/plan"
    tars = [name for name in store.names() if name.endswith(".tar") and not name.startswith(".")]
    other = [name for name in tars if name not in {task.name for task in tasks}]
    claimed = store.read(note).decode() if store.size(note) is not None else None
    if other or (claimed is None and tars) or claimed not in (None, plan):
        raise DataError(
            f"{store} holds shards of another dataset or of other settings"
            f"{' (' + other[0] + ')' if other else ''}; delete it, or write into another folder"
        )
    for folder in ("", f"{UNFINISHED}/"):
        for name in store.names(folder):
            if is_unfinished(name):
                store.remove(folder + name)
    if claimed is None:
        write(store, note, plan.encode())


def _tidy(store: Folder) -> None:
    """Remove files that were only needed while writing."""
    store.remove(UNFINISHED)
    for name in store.names():
        if is_unfinished(name):
            store.remove(name)


def _pack_all(tasks: Sequence[ShardTask], settings: Packing, console: Console) -> list[dict[str, Any]]:
    shards = [load_finished(task) for task in tasks]
    left = [i for i, shard in enumerate(shards) if shard is None]
    if len(left) < len(tasks):
        print_line(console, f"{len(tasks) - len(left)} of {plural(len(tasks), 'shard')} already written")
    sizes = [sum(task.lengths) for task in tasks]
    begun = sum(sizes) - sum(sizes[i] for i in left)
    processes = settings.processes or min(os.cpu_count() or 1, 8)
    with show_progress("writing shards", sum(sizes), console, done=begun) as advance:
        for k, shard in run_tasks(pack, [tasks[i] for i in left], processes=processes, ray=settings.ray):
            shards[left[k]] = shard
            advance(sizes[left[k]])
    return [shard for shard in shards if shard is not None]
