"""Images that look the same: a perceptual hash of 64 bits, and pairs of images that differ in few of them.

The hash is that of Zauner (2010), "Implementation and benchmarking of perceptual image hash functions": signs
of the lowest 8x8 frequencies of the image in grey at 32x32, against their median. Resized and recompressed
copies differ in few bits, flipped or cropped ones in many.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Bool, Int64, UInt8, UInt64

from qdet.data.image.decode import decode
from qdet.data.image.judge import judge
from qdet.data.shards.shard_set import ShardSet

DISTANCE = 4
"""Bits in which the hashes of two copies may differ."""
BRIGHTNESS = 12.0
"""Mean difference, of 255, up to which two images with near hashes look the same."""
_SIDE, _FREQUENCIES, _THUMB = 32, 8, 8
_BANDS = DISTANCE + 1  # of two hashes that differ in DISTANCE bits, at least one band is equal
_PAIRS = 2**21  # compared at a time


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image to compare it with others: 72 bytes in arrays."""

    hash: int
    thumb: UInt8[np.ndarray, "8 8"]


@dataclass(frozen=True)
class Fingerprints:
    """Those of many images, in arrays; rows of images that could not be read are not known."""

    hashes: UInt64[np.ndarray, " n"]
    thumbs: UInt8[np.ndarray, "n 8 8"]
    known: Bool[np.ndarray, " n"]

    @classmethod
    def allocate(cls, count: int) -> "Fingerprints":
        """Make room for a number of images."""
        thumbs = np.zeros((count, _THUMB, _THUMB), np.uint8)
        return cls(np.zeros(count, np.uint64), thumbs, np.zeros(count, bool))

    def put(self, number: int, one: Fingerprint) -> None:
        """Store one."""
        self.hashes[number], self.thumbs[number], self.known[number] = one.hash, one.thumb, True


def fingerprint(shards: ShardSet, row: int) -> Fingerprint:
    """Read and hash an image.

    Raises:
        DataError: It cannot be read.
    """
    data, name = shards.read_image(row), shards.name_of(row)
    judge(data, name=name, max_pixels=shards.max_pixels)
    small = cv2.resize(_decode_grey(data, name), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(small.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES].ravel()
    bits = waves > np.median(waves[1:])  # the first is the mean brightness
    thumb = cv2.resize(small, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
    return Fingerprint(int.from_bytes(np.packbits(bits).tobytes(), "big"), thumb)


def _decode_grey(data: bytes, name: str) -> UInt8[np.ndarray, "h w"]:
    """Decode to grey; a JPEG at an eighth of its size where that is enough."""
    if not simplejpeg.is_jpeg(data):
        return cv2.cvtColor(decode(data, name=name), cv2.COLOR_RGB2GRAY)
    try:
        grey = simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=64, min_width=64)
        return grey[..., 0]
    except ValueError:
        return cv2.cvtColor(decode(data, name=name), cv2.COLOR_RGB2GRAY)


def find_near(hashes: UInt64[np.ndarray, " n"], thumbs: UInt8[np.ndarray, "n 8 8"]) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, of images that look the same, each image with the first of its likes.

    All images with the same hash are compared with the first of them, and those with each other band by band,
    so that the time grows with the number of images and not with its square.
    """
    unique, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    pairs = [(int(first[g]), i) for i, g in enumerate(group.tolist()) if first[g] != i]
    for a, b in _near_hashes(unique):
        low, high = sorted((int(first[a]), int(first[b])))
        pairs.append((low, high))
    return sorted(pair for pair in set(pairs) if _looks_same(thumbs[pair[0]], thumbs[pair[1]]))


def _looks_same(one: UInt8[np.ndarray, "8 8"], other: UInt8[np.ndarray, "8 8"]) -> bool:
    return float(np.abs(one.astype(np.int16) - other).mean()) <= BRIGHTNESS


def _near_hashes(unique: UInt64[np.ndarray, " u"]) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions of hashes that differ in at most DISTANCE bits, some more than once."""
    edges = np.linspace(0, 64, _BANDS + 1).astype(int)
    for begin, end in pairwise(edges.tolist()):
        mask = np.uint64((1 << (end - begin)) - 1)
        keys = (unique >> np.uint64(begin)) & mask
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, cuts):
            if len(bucket) > 1:
                yield from _near_in_bucket(unique, bucket)


def _near_in_bucket(
    unique: UInt64[np.ndarray, " u"], bucket: Int64[np.ndarray, " b"]
) -> Iterator[tuple[int, int]]:
    chunk = max(1, _PAIRS // len(bucket))
    for begin in range(0, len(bucket), chunk):
        part = bucket[begin : begin + chunk]
        bits = np.bitwise_count(unique[part][:, None] ^ unique[bucket[begin:]][None])
        for i, j in zip(*np.nonzero(np.triu(bits <= DISTANCE, k=1)), strict=True):
            yield int(part[i]), int(bucket[begin + j])
