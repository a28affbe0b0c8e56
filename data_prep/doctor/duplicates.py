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
from data_prep.doctor.fingerprints import Fingerprints, find_near
from data_prep.wording import plural, quote
from qdet.data.shards.shard_set import ShardSet


@dataclass(frozen=True)
class Image:
    """One image of several sets."""

    owner: int
    """Which set."""
    row: int


class Places:
    """Number the images of several sets from 0, one set after the other."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.begins = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def image(self, number: int) -> Image:
        """Return the image with a number."""
        owner = int(np.searchsorted(self.begins, number, side="right")) - 1
        return Image(owner, number - int(self.begins[owner]))


def find_copies(sets: Sequence[ShardSet]) -> list[tuple[Image, Image]]:
    """Return pairs of images with the same bytes, each image with the first of its likes.

    Raises:
        DataError: A shard cannot be read.
    """
    crcs = np.concatenate([shards.index.image_crc32 for shards in sets]).astype(np.uint64)
    lengths = np.concatenate([shards.index.image_length for shards in sets]).astype(np.uint64)
    keys = crcs << np.uint64(32) | lengths
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order])) + 1
    places = Places([len(shards.index.image_crc32) for shards in sets])
    pairs = []
    for group in np.split(order, starts) if len(order) else []:
        if len(group) > 1:
            pairs += _confirm(sets, [places.image(int(k)) for k in group])
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
    prints: Fingerprints, places: Places, copies: Sequence[tuple[Image, Image]]
) -> list[tuple[Image, Image]]:
    """Return pairs of images that look the same, without those that are the same byte for byte."""
    readable = np.flatnonzero(prints.known)
    pairs = find_near(prints.hashes[readable], prints.thumbs[readable])
    later = {copy for _, copy in copies}
    found = [(places.image(int(readable[i])), places.image(int(readable[j]))) for i, j in pairs]
    return [(one, other) for one, other in found if one not in later and other not in later]


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
