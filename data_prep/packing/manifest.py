"""The manifest of a conversion, written last: shards exist once it does.

It is a valid `wids` index (shardlist with url, nsamples, filesize) with the fields that qdet adds.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from data_prep.annotations.coco import Annotations
from data_prep.output import explain_failure, write
from data_prep.packing.pack import describe_dropped
from data_prep.wording import plural
from qdet.data.shards.index import Index, index_from_rows
from qdet.data.shards.manifest import INDEX, NAME, SCHEMA, digest_of, objects_in, parse_manifest
from qdet.data.shards.report import FIRST, describe_objects, describe_report
from qdet.errors import DataError
from qdet.storage import Folder

_TURNED = "images_with_EXIF_orientation"


def manifest_of(store: Folder, plan: str) -> dict[str, Any] | None:
    """Return the manifest of a finished conversion with this plan, or None; DataError for another plan."""
    with explain_failure(store, NAME):
        if store.size(NAME) is None:
            return None
        text = store.read(NAME)
    manifest = parse_manifest(text, where=f"{store}/{NAME}")
    if manifest.get("plan") != plan:
        raise DataError(
            f"{store} holds shards of another dataset or of other settings; "
            "delete it, or write into another folder"
        )
    return manifest


def write_manifest(
    store: Folder, split: str, content: Annotations, shards: Sequence[dict[str, Any]], plan: str
) -> dict[str, Any]:
    """Merge the markers of all shards into index.npz and manifest.json; return the manifest.

    Raises:
        DataError: A shard is incomplete, or images or boxes are unaccounted for.
    """
    for shard in shards:
        if store.size(shard["url"]) != shard["filesize"]:
            raise DataError(
                f"{store}/{shard['url']} was written but is not here in full: a cluster's --out must be "
                "a URL, or a folder that all its machines share"
            )
    rows = [{"shard": number} | row for number, shard in enumerate(shards) for row in shard["rows"]]
    dropped = [drop for shard in shards for drop in shard["dropped"]]
    index = index_from_rows(rows)
    turned = [name for shard in shards for name in shard.get("turned", ())]
    counts, report = _count(content, index, dropped), _complete_report(content, dropped, turned)
    check_totals(content.listed, counts, report, where=str(store))
    index_bytes = index.to_bytes()
    listed = [{name: shard[name] for name in ("url", "nsamples", "filesize", "sha256")} for shard in shards]
    categories = content.categories.to_coco()
    manifest = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": split,
        "shardlist": listed,
        "schema": SCHEMA,
        "categories": categories,
        "listed": content.listed,
        "counts": counts,
        "report": report,
        **_first_places(content, turned),
        "dropped_images": dropped,
        "index_sha256": hashlib.sha256(index_bytes).hexdigest(),
        "digest": digest_of(categories, listed),
        "plan": plan,
    }
    write(store, INDEX, index_bytes)
    write(store, NAME, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def check_totals(
    listed: dict[str, int], counts: dict[str, int], report: dict[str, int], *, where: str
) -> None:
    """Raise DataError unless every listed image and box was written or counted as dropped."""
    for what in ("images", "boxes"):
        dropped = sum(count for name, count in report.items() if _kind_of_dropped(name) == what)
        if counts[what] + dropped != listed[what]:
            raise DataError(
                f"{where}: {listed[what]} {what} are listed, but {counts[what]} were written and "
                f"{dropped} dropped; delete the shards and convert the dataset again"
            )


def check_dropped(manifest: dict[str, Any], allowed: int) -> None:
    """Raise DataError if the conversion dropped more images than `--max-bad` allows."""
    if len(manifest["dropped_images"]) > allowed:
        raise DataError(describe_dropped(manifest["dropped_images"], allowed))


def describe(manifest: dict[str, Any], store: Folder) -> str:
    """Summarise in a few lines what a conversion wrote and dropped."""
    counts, shards = manifest["counts"], manifest["shardlist"]
    size = sum(shard["filesize"] for shard in shards) / 1e6
    lines = [
        f"{store}: {plural(counts['images'], 'image')}, {plural(counts['boxes'], 'box')} "
        f"of {len(manifest['categories'])} categories, {plural(len(shards), 'shard')}, {size:.0f} MB",
        f"  {plural(counts['images_without_boxes'], 'image')} without boxes, "
        f"{plural(counts['crowds'], 'crowd region')}",
    ]
    lines += [f"  {line}" for line in describe_report(manifest["report"], manifest.get("first", {}))]
    lines += [f"  dropped: {drop['reason']}" for drop in manifest["dropped_images"]]
    warning = describe_objects(objects_in(manifest), str(store), training=_is_for_training(manifest))
    return "\n".join([*lines, *([warning] if warning else [])])


def _is_for_training(manifest: dict[str, Any]) -> bool:
    return not manifest.get("name", "").startswith(("val", "test"))


def _kind_of_dropped(name: str) -> str | None:
    if not name.startswith("dropped_"):
        return None
    return "images" if name.startswith("dropped_images_") else "boxes"


def _count(content: Annotations, index: Index, dropped: Sequence[dict[str, Any]]) -> dict[str, int]:
    dropped_ids = {drop["image_id"] for drop in dropped}
    return {
        "images": len(index),
        "boxes": int(index.boxes.sum()),
        "crowds": sum(image.crowds for image in content.images if image.id not in dropped_ids),
        "images_without_boxes": int((index.boxes == 0).sum()),
    }


def _complete_report(
    content: Annotations, dropped: Sequence[dict[str, Any]], turned: Sequence[str]
) -> dict[str, int]:
    report = content.report | ({_TURNED: len(turned)} if turned else {})
    if not dropped:
        return report
    dropped_ids = {drop["image_id"] for drop in dropped}
    boxes = sum(image.boxes for image in content.images if image.id in dropped_ids)
    return report | {"dropped_images_unreadable": len(dropped), "dropped_with_their_image": boxes}


def _first_places(content: Annotations, turned: Sequence[str]) -> dict[str, Any]:
    """Return where what the report counts occurred first, as the manifest keeps it."""
    first = content.first | ({_TURNED: sorted(turned)[:FIRST]} if turned else {})
    return {"first": first} if first else {}
