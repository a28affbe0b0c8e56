"""An epoch's plan as it was first written: everything drawn at once, for the whole dataset.

Slow and large, and easy to follow. `qdet.data.plan.epoch` gives the same, window by window.
"""

from typing import NamedTuple

import numpy as np

from qdet.data.augment import AugmentConfig
from qdet.data.image import photometric
from qdet.data.plan.views import Views, _draw_jittered, _draw_multi_scale


class LiteralPlan(NamedTuple):
    """Batches of an epoch, and how all samples are seen."""

    rows: np.ndarray
    padded_hw: np.ndarray
    geometry: Views
    distortion: np.ndarray | None
    mosaic: np.ndarray | None
    mixup: np.ndarray | None
    partners: np.ndarray | None
    dropped: np.ndarray
    wrapped: np.ndarray


def literal_plan(
    sizes_hw: np.ndarray,
    augment: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    global_batch: int,
    tail: str = "drop",
    by_size: bool = True,
    block: int = 2048,
    blocks: int = 8,
    longest: int = 512,
) -> LiteralPlan:
    """Plan a whole epoch; `longest` is the number of steps of a window."""
    chance, n = _generator(seed, epoch, 1), len(sizes_hw)
    steps = n // global_batch if tail == "drop" else -(-n // global_batch)
    block_of = np.arange(n) // block
    group = chance.permutation(block_of[-1] + 1)[block_of] // blocks
    order = np.lexsort((chance.random(n), group))
    mosaic = mixup = partners = distortion = None
    seen_hw = sizes_hw
    if augment.mosaic or augment.mixup:
        numbers = _generator(seed, epoch, 2).random((n, 12))
        position = np.empty(n, dtype=np.int64)
        position[order] = np.arange(n)
        reach = min(2048, n)
        first = np.clip(position - reach // 2, 0, n - reach)
        partners = order[first[:, None] + (numbers[:, 8:] * reach).astype(np.int64)]
        mosaic, mixup = numbers[:, 0] < augment.mosaic, numbers[:, 1] < augment.mixup
        seen_hw = np.where(mosaic[:, None], 2 * augment.mosaic_size, sizes_hw)
    draw = _draw_multi_scale if augment.scale_jitter is None else _draw_jittered
    geometry = draw(seen_hw, augment, _generator(seed, epoch, 0).random((n, 8)).T)
    if augment.photometric:
        distortion = _generator(seed, epoch, 3).random((n, photometric.CHANCES))
    rows = np.resize(order, (steps, global_batch))
    if by_size:
        windows = np.array_split(rows, -(-steps // longest))
        rows = np.concatenate([_batch_by_shape(window, geometry.final_hw, chance) for window in windows])
    padded_hw = -(-geometry.final_hw[rows].max(axis=1) // augment.pad_multiple) * augment.pad_multiple
    dropped, wrapped = order[rows.size :], np.resize(order, max(rows.size, n))[n:]
    return LiteralPlan(rows, padded_hw, geometry, distortion, mosaic, mixup, partners, dropped, wrapped)


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _batch_by_shape(window: np.ndarray, final_hw: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    rows = window.ravel()
    h, w = final_hw[rows].T
    strips = max(1, round(np.sqrt(len(window))))
    strip = np.empty(len(rows), dtype=np.int64)
    strip[np.argsort(w / h, kind="stable")] = np.arange(len(rows)) * strips // len(rows)
    area = np.where(strip % 2, -(h * w), h * w)
    alike = _separate_duplicates(rows[np.lexsort((area, strip))].reshape(window.shape))
    return alike[chance.permutation(len(alike))]


def _separate_duplicates(batches: np.ndarray) -> np.ndarray:
    if len(batches) == 1:
        return batches
    batches = batches.copy()
    for here in range(len(batches)):
        there = here + 1 if here + 1 < len(batches) else here - 1
        first = np.unique(batches[here], return_index=True)[1]
        for slot in np.setdiff1d(np.arange(batches.shape[1]), first):
            strange = np.flatnonzero(~np.isin(batches[there], batches[here]))
            other = strange[0 if there > here else -1]
            batches[here, slot], batches[there, other] = batches[there, other], batches[here, slot]
    return batches
