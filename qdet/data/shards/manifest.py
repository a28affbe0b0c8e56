"""The manifest of a set of shards: which files belong to it, its categories, counts and checksums.

It is valid for `wids` (a shardlist with url, nsamples and filesize) and adds what qdet needs. It is written
last: where it is, everything that it lists was there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdet.errors import DataError
from qdet.storage.parsing import parse_json

SCHEMA = 1
"""Version of the layout; a reader refuses another."""
NAME = "manifest.json"
INDEX = "index.npz"


def digest_of(categories: Sequence[Mapping[str, Any]], shards: Sequence[Mapping[str, Any]]) -> str:
    """Identity of a dataset: changes with any byte of any shard, with their order and with the classes."""
    identity = {"schema": SCHEMA, "categories": categories, "shards": shards}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def parse_manifest(data: bytes, *, where: str) -> dict[str, Any]:
    """Read the manifest of a finished conversion; `where` names the file in errors."""
    try:
        manifest = parse_json(data)
        schema = manifest["schema"]
        complete = {"shardlist", "categories", "digest", "index_sha256"} <= manifest.keys()
        shards = manifest.get("shardlist", ())
        complete = complete and all(map(_is_listing, shards)) and isinstance(shards, list)
        categories = manifest.get("categories")
        complete = complete and isinstance(categories, list) and all(isinstance(c, dict) for c in categories)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{where} was not written by data_prep.coco_to_shards; convert the dataset again"
        ) from error
    if schema != SCHEMA or not complete:
        raise DataError(
            f"{where} has layout {schema}, this qdet reads layout {SCHEMA}; convert the dataset again"
        )
    if digest_of(manifest["categories"], manifest["shardlist"]) != manifest["digest"]:
        raise DataError(
            f"{where} is damaged or was edited: its shards and categories do not have its digest; "
            "copy it again or convert the dataset again"
        )
    return manifest


def objects_in(manifest: Mapping[str, Any]) -> int | None:
    """Objects that are no crowds in a dataset; None where its manifest does not count them."""
    counts = manifest.get("counts")
    if not isinstance(counts, Mapping):
        return None
    boxes, crowds = counts.get("boxes"), counts.get("crowds", 0)
    return max(0, boxes - crowds) if type(boxes) is int and type(crowds) is int else None


def _is_listing(shard: Any) -> bool:
    """Whether an entry of a manifest lists a shard: its name, samples and bytes, perhaps its checksum."""
    counts = shard["nsamples"], shard["filesize"]
    plain = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
    return plain and isinstance(shard["url"], str) and isinstance(shard.get("sha256"), str | None)


@dataclass(frozen=True)
class Listed:
    """A shard, and what a manifest says of it."""

    name: str
    size: int | None = None
    """None without a manifest."""
    sha256: str | None = None
