"""What training received in an epoch, compared with the plan: nothing lost, nothing twice.

Every rank compares the images of its own batches with its share of the plan, step by step, and keeps what
differs. Added up over ranks, nothing may be left; an image that could not be read, and that another one stood
in for, is settled too, and listed.

    n samples
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from qdet.data.plan.account import Account
from qdet.data.plan.order import Order, places_of
from qdet.data.plan.received import Received, Stretch, merge
from qdet.errors import DataError

_TOGETHER = 2**20
"""Ids that are looked through at once."""


class Ledger:
    """How often each image was received since a step, on one rank.

    Args:
        order: The planned steps.
        first: The global step to count from.
        rank: This one.
        world_size: How many ranks share a step.
    """

    def __init__(self, order: Order, *, first: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.order = order
        self._places = places_of(rank, world_size, order.batch_size)
        self.start(first)

    def start(self, first: int) -> None:
        """Forget what was counted, and count from global step `first` on."""
        self.resume(Received(first), first)

    def resume(self, before: Received, step: int) -> None:
        """Count from global step `step` on, and add what was received before."""
        self._before, self._start, self._next = before, step, step
        self._surplus, self._replaced = Counter[int](), Counter[int]()

    @property
    def received(self) -> Received:
        """What was counted."""
        mine = Stretch(self._start, self._next, self._places.start, self._places.stop)
        return merge([self._before, Received(self._before.first, (mine,), self._surplus, self._replaced)])

    def record(self, received: Int64[np.ndarray, " b"], replaced: Sequence[tuple[int, int]] = ()) -> None:
        """Count the images of this rank's share of the next step.

        Args:
            received: Their ids.
            replaced: For every place that was filled with another image than planned, the id of the planned
                one and of the one that stood in.

        Raises:
            DataError: An image is not of the training set.
        """
        batch = self.order.index.image_id[self.order.step(self._next).rows]
        planned = batch[self._places.start : self._places.stop]
        self._next += 1
        if not replaced and np.array_equal(received, planned):
            return
        surplus = Counter(received.tolist())
        for missing, instead in replaced:
            surplus[missing] += 1
            surplus[instead] -= 1
            self._replaced[missing] += 1
        self._check_known(surplus.keys() - set(batch.tolist()))
        surplus.subtract(planned.tolist())
        self._surplus.update(surplus)
        self._surplus = Counter({image: count for image, count in self._surplus.items() if count})

    def _check_known(self, ids: set[int]) -> None:
        unknown = ids - rows_of(ids, self.order.index.image_id).keys()
        if unknown:
            raise DataError(f"training received image {min(unknown)}, which is not in its index")


def account(received: Received, order: Order, last: int) -> Account:
    """Compare what all ranks received with the plan of the steps from the first counted one to `last` - 1.

    Those steps are of one epoch.
    """
    ids, each = order.index.image_id, order.steps_per_epoch
    epoch = received.first // each
    surplus = Counter(received.surplus)
    for stretch, times in received.unlike_plan(received.first, last, order.batch_size):
        for step in order.steps(stretch.first, stretch.last):
            for image in ids[step.rows[stretch.start : stretch.stop]].tolist():
                surplus[image] += times
    begin, end, plan = received.first - epoch * each, last - epoch * each, order.plan(epoch)
    rows = rows_of({*surplus, *received.replaced}, ids)
    return Account(
        epoch=epoch,
        first=begin,
        last=end - 1,
        lost=_repeat({image: -count for image, count in surplus.items()}, rows),
        duplicated=_repeat(surplus, rows),
        dropped=tuple(ids[plan.dropped].tolist()) if end == each else (),
        wrapped=tuple(ids[plan.wrapped].tolist()) if end == each else (),
        substituted=_repeat(received.replaced, rows),
    )


def read_states(states: Iterable[Integer[Tensor, " _"]], order: Order, step: int) -> Received | None:
    """Add up the states that all ranks saved at `step`; None without any.

    Checkpoints of earlier versions hold a first step and two counts of every image, for every rank. They are
    read one by one, and compared with the plan.

    Raises:
        DataError: The states are of another dataset, or of different steps.
    """
    samples, found, sums = len(order.index), list[Received](), dict[int, Int64[Tensor, "2 n"]]()
    for state in states:
        if state.dtype == torch.int32 and len(state) == 1 + 2 * samples:
            first = int(state[0])
            sums[first] = sums.get(first, 0) + state[1:].view(2, samples).long()
        else:
            found.append(Received.from_tensor(state.long(), samples))
    found += [_from_counts(first, counts.numpy(), order, step) for first, counts in sums.items()]
    return merge(found) if found else None


def check_distinct(image_ids: Int64[np.ndarray, " n"], *, together: int = 2**24) -> None:
    """Raise DataError if two images have one id; not many more than `together` are in memory at once."""
    pieces = list(_pieces(image_ids))
    edges = [piece[-1] < after[0] for piece, after in pairwise(pieces)]
    if all(edges) and all((piece[1:] > piece[:-1]).all() for piece in pieces):
        return  # in order, as a conversion leaves them
    parts = -(-len(image_ids) // together)
    for part in range(parts):
        ids = np.sort(np.concatenate([piece[piece % parts == part] for piece in pieces]))
        twice = ids[1:][ids[1:] == ids[:-1]]
        if len(twice):
            raise DataError(
                f"the training set has image id {twice[0]} twice, so that the two cannot be told apart; "
                "give every image an id of its own"
            )


def rows_of(ids: set[int], image_ids: Int64[np.ndarray, " n"]) -> dict[int, int]:
    """Return the rows of some ids in an index; those that it does not have are left out."""
    wanted, rows = np.array(sorted(ids), dtype=np.int64), dict[int, int]()
    for number, piece in enumerate(_pieces(image_ids) if ids else ()):
        for place in np.flatnonzero(np.isin(piece, wanted)).tolist():
            rows[int(piece[place])] = number * _TOGETHER + place
    return rows


def _from_counts(first: int, counts: Int64[np.ndarray, "2 n"], order: Order, step: int) -> Received:
    """Turn counts of every image since `first` into what differs from the plan up to `step`."""
    ids, (settled, gone) = order.index.image_id, counts
    for planned in order.steps(first, step):
        np.subtract.at(settled, planned.rows, 1)
    surplus, replaced = (
        {int(ids[row]): int(times[row]) for row in np.flatnonzero(times).tolist()}
        for times in (settled, gone)
    )
    return Received(first, (Stretch(first, step, 0, order.batch_size),), surplus, replaced)


def _pieces(image_ids: Int64[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " k"]]:
    return (image_ids[start : start + _TOGETHER] for start in range(0, len(image_ids), _TOGETHER))


def _repeat(counts: Mapping[int, int], rows: Mapping[int, int]) -> tuple[int, ...]:
    """Every id as often as its count says, in the order of the index; not at all where that is negative."""
    return tuple(image for image in sorted(counts, key=rows.__getitem__) for _ in range(counts[image]))
