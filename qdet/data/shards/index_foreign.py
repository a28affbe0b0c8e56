"""WebDataset shards that others packed: scanned once, then read by offset like our own.

The scan (`qdet.data.shards.scan_shard`) yields what a conversion yields, a manifest and an index, kept in a
folder beside the shards or, where that cannot be written, in the cache. Shards that change are scanned again:
the folder is named after their names, sizes and times.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qdet.data.shards.categories import Categories
from qdet.data.shards.index import index_from_rows
from qdet.data.shards.manifest import SCHEMA, digest_of
from qdet.data.shards.scan_shard import Scan, scan_shard
from qdet.errors import DataError

_SCANNERS = 4


@runtime_checkable
class Files(Protocol):
    """Shards by their number, wherever they are."""

    names: tuple[str, ...]

    def descriptor(self, shard: int) -> int:
        """File descriptor of a whole shard."""
        ...


def scan_set(files: Files, *, categories: str | None, name: str, max_pixels: int) -> dict[str, bytes]:
    """Scan all shards; return manifest and index, the files that a conversion would have left."""
    print(f"{name}: no manifest.json, reading {len(files.names)} shards once to index them", flush=True)
    with ThreadPoolExecutor(_SCANNERS) as pool:
        scans = list(
            pool.map(
                lambda k: scan_shard(files.descriptor(k), name=files.names[k], max_pixels=max_pixels),
                range(len(files.names)),
            )
        )
    _check_unique(scans, files.names, "key", "keys of samples must differ over all shards")
    classes = _categories(scans, categories, name)
    rows = [row | {"shard": k} for k, scan in enumerate(scans) for row in scan.rows]
    if not rows:
        raise DataError(f"{name} has no samples; name shards that hold some")
    ids = _number(rows)
    if ids == "json":
        _check_unique(scans, files.names, "image_id", "give every image an id of its own")
    index = index_from_rows(rows).to_bytes()
    listed = [
        {"url": url, "nsamples": len(scan.rows), "filesize": scan.filesize, "sha256": scan.sha256}
        for url, scan in zip(files.names, scans, strict=True)
    ]
    manifest = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": listed,
        "schema": SCHEMA,
        "categories": classes.to_coco(),
        "counts": {"images": len(rows), "boxes": sum(row["boxes"] for row in rows)},
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "digest": digest_of(classes.to_coco(), listed),
        "image_ids": ids,
    }
    return {"index.npz": index, "manifest.json": (json.dumps(manifest, indent=1) + "\n").encode()}


def identity(shards: Sequence[tuple[str, int, int]], categories: str | None) -> str:
    """Name for a scan of shards, given by name, size and time, with a file of categories."""
    named = _read(categories).decode(errors="replace") if categories else None
    return hashlib.sha256(json.dumps([SCHEMA, shards, named]).encode()).hexdigest()[:32]


def named_categories(file: str) -> Categories:
    """Classes that a COCO annotation file lists."""
    return Categories.from_coco(_listed(file), where=file)


def _check_unique(scans: Sequence[Scan], names: Sequence[str], what: str, advice: str) -> None:
    seen: dict[Any, str] = {}
    for scan, name in zip(scans, names, strict=True):
        for row in scan.rows:
            if row[what] in seen:
                raise DataError(
                    f"{name}, sample {row['key']}: its {what.replace('_', ' ')} {row[what]} is also in "
                    f"{seen[row[what]]}; {advice}"
                )
            seen[row[what]] = name


def _number(rows: Sequence[dict[str, Any]]) -> str:
    """Give every image an id, and say where it is from: its JSON, its key, or its place among all."""
    if all(row["image_id"] is not None for row in rows):
        return "json"
    keys = [row["key"].rpartition("/")[2] for row in rows]
    digits = all(key.isascii() and key.isdigit() and len(key) < 19 for key in keys)
    from_keys = digits and len({int(key) for key in keys}) == len(keys)
    for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
        row["image_id"] = int(key) if from_keys else place + 1
    return "key" if from_keys else "place"


def _categories(scans: Sequence[Scan], file: str | None, name: str) -> Categories:
    kinds = set().union(*(scan.kinds for scan in scans))
    if file is not None:
        classes = named_categories(file)
    else:
        explained = sorted(set().union(*(scan.categories for scan in scans)))
        names = sorted(kind for kind in kinds if isinstance(kind, str))
        if not explained and names:
            explained = [(k + 1, word) for k, word in enumerate(names)]
        if not explained:
            raise DataError(
                f"{name} does not say what its classes are called; give a COCO annotation file, or its "
                "`categories` alone, with --data.categories"
            )
        classes = Categories.from_coco([{"id": i, "name": word} for i, word in explained], where=name)
    unknown = kinds - set(classes.ids) - set(classes.names)
    if unknown:
        some = ", ".join(sorted(map(repr, unknown))[:5])
        raise DataError(
            f"{name} has boxes of classes that {file or 'its categories'} does not list: {some}; "
            "complete the list with --data.categories"
        )
    return classes


def _listed(file: str) -> Sequence[Mapping[str, Any]]:
    try:
        said = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"--data.categories {file} is no JSON ({error})") from error
    listed = said.get("categories") if isinstance(said, dict) else said
    if not isinstance(listed, list):
        raise DataError(f"--data.categories {file} has no list `categories` of {{id, name}}")
    return listed


def _read(file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"--data.categories {file} cannot be read: {error.strerror or error}") from error
