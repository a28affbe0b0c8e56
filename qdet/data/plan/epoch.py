"""Which samples form which batch: a pure function of dataset, seed, epoch and global batch size.

Nothing here knows of workers, or of how the dataset is cut into shards. Every worker computes, window by
window, the batches that it is about to read, and reads its slice of each; so a run can resume at any step,
with any number of workers. What a window costs depends on its own size, hardly on that of the dataset.

    n samples   S steps of an epoch   G images of a global batch   s steps of a window
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt16

from qdet.data.augment import AugmentConfig
from qdet.data.plan.batch_by_shape import batch_by_shape
from qdet.data.plan.random_rows import philox
from qdet.data.plan.reading import Reading, SizesByRow
from qdet.data.plan.shuffle import Shuffle
from qdet.data.plan.views import Views, draw_views, evaluation_views
from qdet.errors import ConfigError

Tail = Literal["drop", "wrap"]
"""What happens to samples that fill no whole batch: left out, or filled up with some seen before."""

PLAN_VERSION = 1
"""Version of everything here and in `qdet.data.plan.views` that decides which images a step holds and how
each is seen. A run can only be resumed by the version that it began with."""

WINDOW = 512
"""Global batches, at most, among which samples of like size are brought together."""


@dataclass(frozen=True)
class Plan:
    """Consecutive batches of one pass over a dataset: all of them, or those of a window."""

    rows: Int64[np.ndarray, "S G"]
    """Samples by their row in the index."""
    padded_hw: Int64[np.ndarray, "S 2"]
    """Height and width that all images of a batch are padded to."""
    views: Views
    first: int = 0
    """Which step of its pass the first batch is."""


def steps_per_epoch(samples: int, global_batch: int, tail: Tail = "drop") -> int:
    """Global batches in an epoch, the last one filled up where `tail` wraps; ConfigError if there is none."""
    if not samples:
        raise ConfigError("the training set has no images; give another --data.train")
    if tail == "wrap":
        return -(-samples // global_batch)
    if samples < global_batch:
        raise ConfigError(
            f"--train.batch-size {global_batch} is more than the {samples} images of the training set; "
            "lower it, or read images twice with --data.tail wrap"
        )
    return samples // global_batch


class EpochPlan:
    """One training epoch: every sample once, but for those at its end that fill no batch.

    Blocks of samples are shuffled and taken in groups whose samples are mixed. Then, where batches are made
    `by_size`, samples are sorted by final shape and size in windows of up to 512 batches, cut into batches,
    and the batches shuffled. An image's own augmentation is not touched by this. What padding adds to the
    pixels of COCO's images shrinks from 120% to 5% at 16 images (`python -m benchmarks.padding`).

    Where `tail` wraps, the first samples of the epoch come again in its last window, seen as before, and
    never twice in one batch unless the dataset is smaller than that.

    Args:
        sizes_hw: Height and width of every image file.
        augment: How images are augmented.
        seed: Of the run.
        epoch: From 0.
        global_batch: Images of a step.
        tail: What becomes of samples that fill no batch.
        by_size: Whether a batch holds images of like size.
        kept: Rows to read, ascending; by default all.

    Raises:
        ConfigError: There is no step in it.
    """

    def __init__(
        self,
        sizes_hw: SizesByRow,
        augment: AugmentConfig,
        *,
        seed: int,
        epoch: int,
        global_batch: int,
        tail: Tail = "drop",
        by_size: bool = True,
        kept: Int64[np.ndarray, " k"] | None = None,
    ) -> None:
        self.sizes_hw, self.augment, self.seed, self.epoch = sizes_hw, augment, seed, epoch
        self._kept = kept
        self.samples, self.global_batch = len(sizes_hw if kept is None else kept), global_batch
        self.steps = steps_per_epoch(self.samples, global_batch, tail)
        """Batches of the epoch."""
        self.windows = -(-self.steps // WINDOW)
        """Stretches of it that are planned one by one."""
        self._order = Shuffle(self.samples, philox(seed, epoch, stream=1))
        self._shuffled = self._shuffle_windows() if by_size else None

    def span(self, window: int) -> range:
        """Return the steps of a window; the first ones are a step longer where they cannot be equal."""
        length, longer = divmod(self.steps, self.windows)
        start = window * length + min(window, longer)
        return range(start, start + length + (window < longer))

    def window_of(self, step: int) -> int:
        """Return the window that a step is in."""
        length, longer = divmod(self.steps, self.windows)
        within = longer * (length + 1)  # steps of the longer windows
        return step // (length + 1) if step < within else longer + (step - within) // length

    def window(self, number: int) -> Plan:
        """Plan the batches of one window."""
        span = self.span(number)
        views, places = self._views(self._positions(span))
        return self._batch(span, places, views)

    def whole(self) -> Plan:
        """Plan all batches at once, with the views of all samples, also of those left out."""
        views, order = self._views(np.arange(self.samples))
        spans = map(self.span, range(self.windows))
        plans = [self._batch(span, order[self._positions(span)], views) for span in spans]
        rows, padded_hw = (
            np.concatenate([getattr(p, name) for p in plans]) for name in ("rows", "padded_hw")
        )
        return Plan(rows, padded_hw, views)

    @property
    def dropped(self) -> Int64[np.ndarray, " d"]:
        """Samples that filled no batch and are left out of this epoch."""
        return self._rows_at(np.arange(min(self.steps * self.global_batch, self.samples), self.samples))

    @property
    def wrapped(self) -> Int64[np.ndarray, " w"]:
        """Samples that are read once more to fill the last batch."""
        again = max(0, self.steps * self.global_batch - self.samples)
        return self._rows_at(np.arange(again) % self.samples)

    def _positions(self, steps: range) -> Int64[np.ndarray, " m"]:
        """Positions in the order of what fills some steps before batches are made; it wraps at its end."""
        return np.arange(steps.start * self.global_batch, steps.stop * self.global_batch) % self.samples

    def _views(self, positions: Int64[np.ndarray, " m"]) -> tuple[Views, Int64[np.ndarray, " m"]]:
        """Draw the views of the rows at some positions, of each row once; return where each row's is."""
        rows, first, places = np.unique(self._rows_at(positions), return_index=True, return_inverse=True)
        reading = Reading(positions[first], self._rows_at, self.samples)
        views = draw_views(
            self.sizes_hw, self.augment, seed=self.seed, epoch=self.epoch, rows=rows, reading=reading
        )
        return views, places

    def _rows_at(self, positions: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Return the rows at some positions of the order."""
        rows = self._order.at(positions)
        return rows if self._kept is None else self._kept[rows]

    def _batch(self, span: range, places: Int64[np.ndarray, " m"], views: Views) -> Plan:
        """Make batches of what fills a window, given by its places in `views`."""
        batches = places.reshape(len(span), self.global_batch)
        if self._shuffled is not None:
            alike = batch_by_shape(batches, views.final_hw[places])
            batches = alike[self._shuffled[span.start : span.stop]]
        padded_hw = _pad_to(views.final_hw[batches], self.augment.pad_multiple)
        return Plan(views.rows_in(batches), padded_hw, views.compact(), first=span.start)

    def _shuffle_windows(self) -> UInt16[np.ndarray, " S"]:
        """Draw in which order the batches of every window come, window after window."""
        chance, shuffled = self._order.after(), np.empty(self.steps, dtype=np.uint16)
        for span in map(self.span, range(self.windows)):
            shuffled[span.start : span.stop] = chance.permutation(len(span))
        return shuffled


def plan_evaluation(sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig, *, batch_size: int) -> Plan:
    """Plan one evaluation: every sample once, the largest first, whatever the number of workers.

    The last batch is filled up by repeating its first sample.
    """
    views = evaluation_views(sizes_hw, augment)
    h, w = views.final_hw.T
    order = np.lexsort((np.arange(len(h)), -w, -h))
    fill = -len(order) % batch_size
    repeated = np.repeat(order[len(order) - len(order) % batch_size :][:1], fill)
    rows = np.concatenate([order, repeated]).reshape(-1, batch_size)
    return Plan(rows, _pad_to(views.final_hw[rows], augment.pad_multiple), views)


def _pad_to(final_hw: Int64[np.ndarray, "S G 2"], multiple: int) -> Int64[np.ndarray, "S 2"]:
    largest = final_hw.max(axis=1)
    return -(-largest // multiple) * multiple
