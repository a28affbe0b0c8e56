"""The ledger: what it says of an epoch is what a plain count of ids says, however the epoch was shared."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.plan.ledger import Account, Ledger
from qdet.data.plan.order import Order, share
from qdet.data.shards.index import COLUMNS, Index
from qdet.errors import DataError
from qdet.training.accounting import Accounting
from qdet.training.distributed import World
from qdet.types import Batch, Targets


def order_of(samples: int, batch: int, tail: str = "drop", seed: int = 0) -> Order:
    """An order over images of one size, whose ids are in no order and far apart."""
    columns = {name: np.full(samples, 64, dtype=kind) for name, kind in COLUMNS.items()}
    columns["image_id"] = np.random.default_rng(1).choice(10**12, samples, replace=False)
    return Order(index=Index(**columns), augment=AugmentConfig(), batch_size=batch, seed=seed, tail=tail)


def received(order: Order, first: int, last: int, *, rank: int, world: int) -> list[np.ndarray]:
    """Ids of this rank's images at each step."""
    ids = order.index.image_id
    return [share(ids[step.rows], rank=rank, world_size=world) for step in order.steps(first, last)]


def add_up(order: Order, ledgers: list[Ledger]) -> Ledger:
    total = Ledger(order.index.image_id, first=ledgers[0].first)
    for ledger in ledgers:
        total.counts += ledger.counts
    return total


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 90), st.sampled_from([1, 2, 3, 4]), st.integers(1, 4), st.sampled_from(["drop", "wrap"]),
    st.integers(0, 3), st.data(),
)  # fmt: skip
def test_training_as_planned_balances_between_any_two_steps(samples, world, each, tail, epoch, data):
    batch = world * each
    if samples < batch and tail == "drop":
        return
    order = order_of(samples, batch, tail)
    steps = order.steps_per_epoch
    begin = data.draw(st.integers(0, steps - 1))
    end = data.draw(st.integers(begin + 1, steps))
    ledgers = [Ledger(order.index.image_id, first=epoch * steps + begin) for _ in range(world)]
    for rank, ledger in enumerate(ledgers):
        for ids in received(order, epoch * steps + begin, epoch * steps + end, rank=rank, world=world):
            ledger.record(ids)
    account = add_up(order, ledgers).account(order, epoch * steps + end)
    account.check()
    assert (account.epoch, account.first, account.last) == (epoch, begin, end - 1)
    left_out, again = (samples % batch, 0) if tail == "drop" else (0, -samples % batch)
    counts = (left_out, again) if end == steps else (0, 0)
    assert (len(account.dropped), len(account.wrapped)) == counts
    assert account.lost == account.duplicated == account.substituted == ()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 39), st.integers(-1, 39)), max_size=8), st.integers(1, 4))
def test_every_image_lost_or_received_twice_is_named(changes, world):
    """Places of an epoch get another image, or (-1) none; the ledger says what a count of ids says."""
    order = order_of(40, 40)
    planned = np.concatenate(received(order, 0, 1, rank=0, world=1))
    found = planned.copy()
    for place, other in changes:
        found[place] = planned[other] if other >= 0 else -1
    found = found[found >= 0]
    ledgers = [Ledger(order.index.image_id) for _ in range(world)]
    for i, image in enumerate(found):
        ledgers[i % world].record(found[i : i + 1])
        assert image in order.index.image_id
    account = add_up(order, ledgers).account(order, 1)
    surplus = Counter(found.tolist())
    surplus.subtract(planned.tolist())
    assert Counter(account.duplicated) == +surplus
    assert Counter(account.lost) == -surplus
    if +surplus or -surplus:
        with pytest.raises(
            DataError, match=rf"lost={len(account.lost)} duplicated={len(account.duplicated)} "
        ):
            account.check()
    else:
        account.check()


def test_a_substituted_image_is_listed_and_not_lost():
    order = order_of(12, 4)
    ledgers = [Ledger(order.index.image_id) for _ in range(2)]
    for rank, ledger in enumerate(ledgers):
        for step, ids in enumerate(received(order, 0, 3, rank=rank, world=2)):
            if (rank, step) == (1, 1):
                (bad, good), ids = ids, ids[[1, 1]]
                ledger.record(ids, [(int(bad), int(good))])
            else:
                ledger.record(ids)
    account = add_up(order, ledgers).account(order, 3)
    account.check()
    assert account.substituted == (bad,)
    assert str(account) == (
        "images of epoch 0, steps 0 to 2: lost=0 duplicated=0 dropped=0 wrapped=0 substituted=1"
    )
    assert account.metrics()["data/substituted"] == 1
    assert account.table() == {"image_id": [bad], "what": ["substituted"]}


def test_saved_counts_are_restored_on_any_number_of_ranks():
    order = order_of(24, 4)
    ids = order.index.image_id
    before = [Ledger(ids, first=6) for _ in range(4)]  # the second epoch, as four ranks
    for rank, ledger in enumerate(before):
        for images in received(order, 6, 9, rank=rank, world=4):
            ledger.record(images)
    saved = [ledger.to_tensor() for ledger in before]
    gathered = Ledger.from_tensor(ids, *saved)
    after = [gathered, Ledger(ids, first=gathered.first)]  # two ranks continue, one of them with the counts
    for rank, ledger in enumerate(after):
        for images in received(order, 9, 12, rank=rank, world=2):
            ledger.record(images)
    whole = add_up(order, after).account(order, 12)
    whole.check()
    assert (whole.epoch, whole.first, whole.last) == (1, 0, 5)
    halves = [Ledger.from_tensor(ids, *saved[:2]), Ledger.from_tensor(ids, *saved[2:])]
    assert add_up(order, halves).counts.equal(add_up(order, before).counts)


def test_counts_of_another_dataset_are_refused():
    ids = np.arange(5)
    state = Ledger(ids, first=3).to_tensor()
    for others in ((), (state, Ledger(ids, first=4).to_tensor()), (Ledger(np.arange(6)).to_tensor(),)):
        with pytest.raises(DataError, match="belong to another checkpoint"):
            Ledger.from_tensor(ids, *others)
    with pytest.raises(DataError, match="image id 7 twice"):
        Ledger(np.array([3, 7, 1, 7]))
    for strange in (9, -1, 2):
        with pytest.raises(DataError, match=f"image {strange}, which is not in its index"):
            Ledger(np.array([0, 1, 3])).record(np.array([1, strange]))


class Heard:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.points, self.tables = {}, {}

    def metrics(self, values, step):
        self.points[step] = dict(values)

    def table(self, columns, file):
        self.tables[file] = columns

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_training_logs_every_epoch_and_stops_where_an_image_is_missing(capsys):
    order, tracker = order_of(10, 4), Heard()
    accounting = Accounting(order, World(0, 1, torch.device("cpu")), tracker, step=1)
    accounting.record([batch_of(ids) for ids in received(order, 1, 2, rank=0, world=1)])
    accounting.settle(2)
    accounting.settle(2)  # where the last step is an epoch's end there is nothing left
    accounting.record([batch_of(ids) for ids in received(order, 2, 3, rank=0, world=1)])
    with pytest.raises(DataError, match="steps 0 to 1: lost=4 duplicated=0"):
        accounting.settle(4)
    said = capsys.readouterr().out.splitlines()
    assert said == ["images of epoch 1, steps 0 to 1: lost=4 duplicated=0 dropped=2 wrapped=0 substituted=0"]
    assert tracker.points[2] == {"data/received": 4, "data/dropped": 2}  # what did not happen is not logged
    assert tracker.points[4]["data/lost"] == 4
    dropped = order.index.image_id[order.plan(0).dropped].tolist()
    assert {"image_id": dropped, "what": ["dropped"] * 2} in tracker.tables.values()
    states = []
    for rank in range(4):
        ledger = Ledger(order.index.image_id, first=2)
        ledger.record(*received(order, 2, 3, rank=rank, world=4))
        states.append(ledger.to_tensor())
    for rank, main in ((0, True), (1, False)):
        accounting = Accounting(order, World(rank, 1, torch.device("cpu")), tracker, step=0)
        accounting.load(*states)
        assert accounting.ledger.first == 2
        assert accounting.ledger.counts.sum() == (4 if main else 0)


def batch_of(ids: np.ndarray) -> Batch:
    n = len(ids)
    return Batch(
        images=torch.zeros((n, 3, 8, 8), dtype=torch.uint8),
        sizes_hw=torch.full((n, 2), 8),
        original_hw=torch.full((n, 2), 8),
        image_ids=torch.from_numpy(ids),
        valid=torch.ones(n, dtype=torch.bool),
        targets=Targets(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), (0,) * n),
    )


def test_an_error_lists_only_a_few_image_ids():
    account = Account(0, 0, 3, tuple(range(9)), (), (), (), ())
    with pytest.raises(DataError, match=r"lost: 0, 1, 2, 3, 4, \.\.\.; duplicated: none"):
        account.check()
