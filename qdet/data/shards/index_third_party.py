"""Third-party WebDataset shards: scanned once, then read by offset like our own.

The scan (`qdet.data.shards.scan_shard`) yields what a conversion yields, a manifest and an index, kept in a
folder beside the shards or, where that cannot be written, in the cache. Shards that change are scanned again:
the folder is named after their names, sizes and times.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

from qdet.data.shards.annotations import unknown_kinds
from qdet.data.shards.categories import Categories, named_categories, read_categories_file
from qdet.data.shards.index import index_from_rows
from qdet.data.shards.manifest import SCHEMA, digest_of
from qdet.data.shards.report import Report, describe_report
from qdet.data.shards.scan_shard import Scan, scan_shard
from qdet.errors import DataError

SCAN = 3
"""Version of what a scan finds; older indexes are scanned again. 2: image ids depend on the sample alone. 3:
boxes that can never be found are dropped."""
IDS = "json, else key"
"""Where the manifest says that ids of images are from; one that a conversion wrote does not say it."""
_SCANNERS = 4
_SHOWN = 10


@runtime_checkable
class Files(Protocol):
    """Shards by their number, wherever they are."""

    names: tuple[str, ...]

    def descriptor(self, shard: int) -> int:
        """File descriptor of a whole shard."""
        ...


def scan_set(
    files: Files, *, categories: str | None, name: str, max_pixels: int, max_bad: int = 0
) -> dict[str, bytes]:
    """Scan all shards; return manifest and index, the files that a conversion would have left.

    Raises:
        DataError: The set cannot be used, or more than `max_bad` of its samples.
    """
    shards = "1 shard" if len(files.names) == 1 else f"{len(files.names)} shards"
    print(f"{name}: no manifest.json, reading {shards} once to index them", flush=True)
    with ThreadPoolExecutor(_SCANNERS) as pool:
        scans = list(
            pool.map(
                lambda k: scan_shard(files.descriptor(k), name=files.names[k], max_pixels=max_pixels),
                range(len(files.names)),
            )
        )
    _check_unique(scans, files.names, "key", "keys of samples must differ over all shards")
    bad = [one for scan in scans for one in scan.bad]
    check_bad(bad, max_bad)
    report = _merge_reports(scans, name)
    classes = _categories(scans, categories, name)
    rows = [row | {"shard": k} for k, scan in enumerate(scans) for row in scan.rows]
    if not rows:
        raise DataError(f"{name} has no samples; name shards that hold some")
    _check_unique(scans, files.names, "image_id", "give every image an id of its own in its JSON")
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
        "counts": {
            "images": len(rows),
            "boxes": sum(row["boxes"] for row in rows),
            "crowds": sum(scan.crowds for scan in scans),
        },
        **_irregularities(report, bad),
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "digest": digest_of(classes.to_coco(), listed),
        "image_ids": IDS,
    }
    return {"index.npz": index, "manifest.json": (json.dumps(manifest, indent=1) + "\n").encode()}


def check_bad(bad: Sequence[Mapping[str, str]], allowed: int) -> None:
    """Raise DataError for more samples that cannot be used than are allowed."""
    if len(bad) > allowed:
        reasons = [one["reason"] for one in bad[:_SHOWN]]
        more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        many = "1 sample is" if len(bad) == 1 else f"{len(bad)} samples are"
        raise DataError(
            f"{many} bad, --data.max-bad {allowed} allows {allowed} (--max-bad in data_prep); repair "
            "them, or raise the limit to drop them:\n  " + "\n  ".join([*reasons, *more])
        )


def _merge_reports(scans: Sequence[Scan], name: str) -> Report:
    report = Report()
    for scan in scans:
        report.merge(scan.report)
    lost = report.close().explain_loss()
    if lost is not None:
        raise DataError(f"{name}: none of its {report.listed:,} boxes can be used ({lost})")
    return report


def _irregularities(report: Report, bad: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Print what is irregular; return it as the manifest keeps it, nothing where all is as it should be."""
    counts, first = dict(sorted(report.counts.items())), dict(sorted(report.first.items()))
    for line in (*describe_report(counts, first), *(f"dropped: {one['reason']}" for one in bad)):
        print(f"  {line}", flush=True)
    return ({"report": counts, "first": first} if counts else {}) | ({"dropped_samples": bad} if bad else {})


def identity(shards: Sequence[tuple[str, int, int]], categories: str | None) -> str:
    """Name for a scan of shards, given by name, size and time, with a file of categories."""
    named = read_categories_file(categories).decode(errors="replace") if categories else None
    return hashlib.sha256(json.dumps([SCHEMA, SCAN, shards, named]).encode()).hexdigest()[:32]


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
    unknown = unknown_kinds(kinds, classes)
    if unknown:
        some = ", ".join(unknown[:5])
        raise DataError(
            f"{name} has boxes of classes that {file or 'its categories'} does not list: {some}; "
            "complete the list with --data.categories"
        )
    return classes
