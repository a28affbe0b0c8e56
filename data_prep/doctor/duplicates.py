"""The same image more than once: in a set of shards, and in two of them.

Copies byte for byte are found by the checksums in the index and confirmed by reading them; copies that merely
look the same by their fingerprints.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data_prep.doctor.findings import SHOWN, Finding
from data_prep.doctor.fingerprints import Fingerprint, find_near
from data_prep.wording import plural, quote
from qdet.data.shards.shard_set import ShardSet


@dataclass(frozen=True)
class Image:
    """One image of several sets."""

    owner: int
    """Which set."""
    row: int


def find_copies(sets: Sequence[ShardSet]) -> list[tuple[Image, Image]]:
    """Return pairs of images with the same bytes, each image with the first of its likes.

    Raises:
        DataError: A shard cannot be read.
    """
    groups: dict[tuple[int, int], list[Image]] = {}
    for owner, shards in enumerate(sets):
        index = shards.index
        keys = zip(index.image_crc32.tolist(), index.image_length.tolist(), strict=True)
        for row, key in enumerate(keys):
            groups.setdefault(key, []).append(Image(owner, row))
    pairs = []
    for images in groups.values():
        if len(images) > 1:
            pairs += _confirm(sets, images)
    return pairs


def _confirm(sets: Sequence[ShardSet], images: Sequence[Image]) -> list[tuple[Image, Image]]:
    first: dict[bytes, Image] = {}
    pairs = []
    for image in images:
        digest = hashlib.sha256(sets[image.owner].read_image(image.row)).digest()
        if first.setdefault(digest, image) != image:
            pairs.append((first[digest], image))
    return pairs


def find_look_alikes(
    images: Sequence[Image], prints: Sequence[Fingerprint], copies: Sequence[tuple[Image, Image]]
) -> list[tuple[Image, Image]]:
    """Return pairs of images that look the same, without those that are the same byte for byte."""
    if not images:
        return []
    hashes = np.array([one.hash for one in prints], np.uint64)
    pairs = find_near(hashes, np.stack([one.thumb for one in prints]))
    later = {copy for _, copy in copies}
    return [(images[i], images[j]) for i, j in pairs if images[i] not in later and images[j] not in later]


def describe_pairs(
    sets: Sequence[ShardSet], pairs: Sequence[tuple[Image, Image]], *, same_bytes: bool
) -> list[Finding]:
    """Return a finding for each set, and for every two of them, that has such pairs."""
    found = []
    for owner in range(len(sets)):
        inside = [pair for pair in pairs if {image.owner for image in pair} == {owner}]
        found += _describe(sets, inside, sets[owner].source, same_bytes=same_bytes, across=False)
    for one, other in combinations(range(len(sets)), 2):
        across = [pair for pair in pairs if {image.owner for image in pair} == {one, other}]
        folders = f"{sets[one].source} and {sets[other].source}"
        found += _describe(sets, across, folders, same_bytes=same_bytes, across=True)
    return found


def _describe(
    sets: Sequence[ShardSet],
    pairs: Sequence[tuple[Image, Image]],
    folder: str,
    *,
    same_bytes: bool,
    across: bool,
) -> list[Finding]:
    if not pairs:
        return []
    kind = "identical" if same_bytes else "nearly identical"
    where = ", one on each side: the score there flatters the model; keep them on one" if across else ""
    check = ("copies" if same_bytes else "look_alikes") + ("_across_splits" if across else "")
    examples = tuple(" = ".join(_name(sets, image) for image in pair) for pair in pairs[:SHOWN])
    text = f"{plural(len(pairs), 'pair')} of {kind} images{where or ': keep one of each'}"
    level = "warning" if same_bytes or across else "note"
    return [Finding(check, level, folder, len(pairs), text, examples)]


def _name(sets: Sequence[ShardSet], image: Image) -> str:
    return quote(sets[image.owner].read_annotation(image.row)["file_name"])
