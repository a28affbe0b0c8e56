"""Samples of shards to one padded batch."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8

from qdet.data.denoising.draw import NoiseSource, pack
from qdet.data.image.resize import HW
from qdet.data.image.view import View
from qdet.data.loading.buffers import image_memory
from qdet.data.loading.sample import Objects, Samples, load_sample
from qdet.data.loading.substitutes import Candidates, read_or_substitute
from qdet.types import Batch, Noise, Substitute, Targets


class OversizeError(ValueError):
    """An image is larger than what it should be padded to."""


def load_batch(
    shards: Samples,
    rows: Sequence[int],
    views: Sequence[View],
    padded_hw: HW,
    valid: Sequence[bool],
    candidates: Candidates | None = None,
    noise: NoiseSource | None = None,
) -> Batch:
    """Read, decode and transform samples straight into a batch of `padded_hw`; padding is zero.

    Channels of the images lie next to each other in memory, as decoders write and convolutions read them.

    Args:
        shards: The dataset.
        rows: Samples by their row in the index.
        views: How each is seen.
        padded_hw: Height and width of the batch.
        valid: Which of them count.
        candidates: Substitutes for samples that cannot be read; without them those are errors.
        noise: What draws the noise of their objects, for training with denoising.

    Raises:
        OversizeError: An image, or what stands in for it, is larger than `padded_hw`.
    """
    pixels = image_memory(len(rows), *padded_hw)
    index, chosen, seen, objects, substitutes = shards.index, [], [], [], []
    for sample, (planned, view) in enumerate(zip(rows, views, strict=True)):
        load = partial(_load, shards, pixels[sample])
        row, used, found, reason = read_or_substitute(
            load, planned, view, candidates=candidates, sample=sample
        )
        chosen.append(row)
        seen.append(used)
        objects.append(found)
        if reason is not None:
            substitutes.append(Substitute(int(index.image_id[planned]), int(index.image_id[row]), reason))
    counts = tuple(len(o.labels) for o in objects)
    original = np.stack([index.height[chosen], index.width[chosen]], axis=1).astype(np.int64)
    return Batch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        sizes_hw=torch.tensor([view.final_hw for view in seen]),
        original_hw=torch.from_numpy(original),
        image_ids=torch.from_numpy(index.image_id[chosen]),
        valid=torch.tensor(valid),
        targets=Targets(
            boxes_xyxy=torch.from_numpy(np.concatenate([o.boxes_xyxy for o in objects]).astype(np.float32)),
            labels=torch.from_numpy(np.concatenate([o.labels for o in objects])),
            counts=counts,
        ),
        substitutes=tuple(substitutes),
        noise=None if noise is None else _draw_noise(noise, shards, chosen, counts),
    )


def load_padded_alone(
    own_hw: HW,
    shards: Samples,
    rows: Sequence[int],
    views: Sequence[View],
    padded_hw: HW,
    valid: Sequence[bool],
    candidates: Candidates | None = None,
    noise: NoiseSource | None = None,
) -> Batch:
    """Load a batch of `own_hw`, or of `padded_hw`, where any fits, if a larger image stands in for one."""
    try:
        return load_batch(shards, rows, views, own_hw, valid, candidates, noise)
    except OversizeError:
        return load_batch(shards, rows, views, padded_hw, valid, candidates, noise)


def _draw_noise(noise: NoiseSource, shards: Samples, rows: Sequence[int], counts: Sequence[int]) -> Noise:
    """Draw the noise of the samples that are in a batch, substitutes with their own."""
    return pack([noise.draw(shards.number_of(row), n) for row, n in zip(rows, counts, strict=True)])


def _load(shards: Samples, padded: UInt8[np.ndarray, "H W 3"], row: int, view: View) -> Objects:
    return load_sample(shards, row, view, place(padded, view.final_hw))


def padded_to(views: Sequence[View], multiple: int) -> HW:
    """Return the sides that images are padded to: those of the largest, up to a multiple."""
    h, w = (-(-max(view.final_hw[side] for view in views) // multiple) * multiple for side in (0, 1))
    return h, w


def place(padded: UInt8[np.ndarray, "H W 3"], size_hw: HW) -> UInt8[np.ndarray, "h w 3"]:
    """Top left corner of `size_hw` in an image that is zero around it."""
    h, w = size_hw
    if h > padded.shape[0] or w > padded.shape[1]:
        raise OversizeError(
            f"an image of {h}x{w} does not fit into a batch of {padded.shape[0]}x{padded.shape[1]}"
        )
    padded[h:] = 0
    padded[:h, w:] = 0
    return padded[:h, :w]
