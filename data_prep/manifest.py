"""The manifest of a conversion, written when everything else is in place: from then on the shards exist.

It is valid for `wids` (shardlist with url, nsamples, filesize) and adds what qdet needs.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.annotations import Annotations
from data_prep.atomic import write_atomically
from qdet.data.index import index_from_rows
from qdet.data.shards import SCHEMA, read_manifest
from qdet.errors import DataError


def manifest_of(out: Path, plan: str) -> dict[str, Any] | None:
    """The manifest of a finished conversion by the same plan; DataError if `out` holds another one."""
    if not (out / "manifest.json").is_file():
        return None
    manifest = read_manifest(out)
    if manifest.get("plan") != plan:
        raise DataError(
            f"{out} holds shards of another dataset or of other settings; delete it or choose another --out"
        )
    return manifest


def write_manifest(
    out: Path, split: str, content: Annotations, shards: Sequence[dict[str, Any]], plan: str
) -> dict[str, Any]:
    """Gather the shards' markers into index.npz and manifest.json; return the manifest."""
    rows = [{"shard": number} | row for number, shard in enumerate(shards) for row in shard["rows"]]
    if len(rows) != len(content.images):
        raise DataError(
            f"{out}: {len(rows)} of {len(content.images)} images were written; run the command again"
        )
    index = index_from_rows(rows).to_bytes()
    listed = [{name: shard[name] for name in ("url", "nsamples", "filesize", "sha256")} for shard in shards]
    categories = content.categories.to_coco()
    identity = {"schema": SCHEMA, "categories": categories, "shards": listed}
    manifest = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": split,
        "shardlist": listed,
        "schema": SCHEMA,
        "categories": categories,
        "counts": _counts(content),
        "report": content.report,
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "digest": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "plan": plan,
    }
    write_atomically(out / "index.npz", index)
    write_atomically(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def describe(manifest: dict[str, Any], out: Path) -> str:
    """Say in a few lines what a conversion wrote and left out."""
    counts, shards = manifest["counts"], manifest["shardlist"]
    size = sum(shard["filesize"] for shard in shards) / 1e6
    lines = [
        f"{out}: {counts['images']} images, {counts['boxes']} boxes "
        f"of {len(manifest['categories'])} categories, {len(shards)} shards, {size:.0f} MB",
        f"  {counts['images_without_boxes']} images without boxes, {counts['crowds']} crowd regions",
    ]
    lines += [f"  {name.replace('_', ' ')}: {count}" for name, count in manifest["report"].items()]
    return "\n".join(lines)


def _counts(content: Annotations) -> dict[str, int]:
    boxes = [box for image in content.images for box in image.boxes]
    return {
        "images": len(content.images),
        "boxes": len(boxes),
        "crowds": sum(box.iscrowd for box in boxes),
        "images_without_boxes": sum(not image.boxes for image in content.images),
    }
