"""The ledger: what it says of an epoch is what counts of all images say, however the epoch was shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.plan.account import Account
from qdet.data.plan.ledger import Ledger, account, check_distinct, read_states, rows_of
from qdet.data.plan.order import Order, share
from qdet.data.plan.received import Received, Stretch, merge
from qdet.data.shards.index import COLUMNS, Index
from qdet.errors import DataError
from qdet.tracking import NullTracker
from qdet.training.accounting import Accounting
from qdet.training.distributed import World
from qdet.types import Batch, Targets
from tests.support.literal_ledger import LiteralLedger


def order_of(samples: int, batch: int, tail: str = "drop", seed: int = 0) -> Order:
    """An order over images of one size, whose ids are in no order and far apart."""
    columns = {name: np.full(samples, 64, dtype=kind) for name, kind in COLUMNS.items()}
    columns["image_id"] = np.random.default_rng(1).choice(10**12, samples, replace=False)
    return Order(index=Index(**columns), augment=AugmentConfig(), batch_size=batch, seed=seed, tail=tail)


def received(order: Order, first: int, last: int, *, rank: int, world: int) -> list[np.ndarray]:
    """Ids of this rank's images at each step."""
    ids = order.index.image_id
    return [share(ids[step.rows], rank=rank, world_size=world) for step in order.steps(first, last)]


def ranks_of(order: Order, world: int, first: int = 0) -> list[Ledger]:
    return [Ledger(order, first=first, rank=rank, world_size=world) for rank in range(world)]


def add_up(ledgers: list[Ledger]) -> Received:
    return merge([ledger.received for ledger in ledgers])


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
    ledgers = ranks_of(order, world, first=epoch * steps + begin)
    for rank, ledger in enumerate(ledgers):
        for ids in received(order, epoch * steps + begin, epoch * steps + end, rank=rank, world=world):
            ledger.record(ids)
    total = add_up(ledgers)
    assert total.stretches == (Stretch(epoch * steps + begin, epoch * steps + end, 0, batch),)
    found = account(total, order, epoch * steps + end)
    found.check()
    assert (found.epoch, found.first, found.last) == (epoch, begin, end - 1)
    left_out, again = (samples % batch, 0) if tail == "drop" else (0, -samples % batch)
    counts = (left_out, again) if end == steps else (0, 0)
    assert (len(found.dropped), len(found.wrapped)) == counts
    assert found.lost == found.duplicated == found.substituted == ()


@st.composite
def faulty_epochs(draw):
    """What ranks received in an epoch, in launches on other numbers of ranks, with faults of every kind."""
    order = order_of(draw(st.integers(12, 60)), 12, draw(st.sampled_from(["drop", "wrap"])))
    each, epoch = order.steps_per_epoch, draw(st.integers(0, 2))
    first = step = epoch * each + draw(st.integers(0, each - 1))
    launches = []
    while step < (epoch + 1) * each:
        world, last = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(step + 1, (epoch + 1) * each))
        ranks = [received(order, step, last, rank=rank, world=world) for rank in range(world)]
        launches.append((step, [[[ids.copy(), []] for ids in rank] for rank in ranks]))
        step = last
    ids = st.sampled_from(order.index.image_id.tolist())
    for _ in range(draw(st.integers(0, 5))):
        _, ranks = draw(st.sampled_from(launches))
        steps = draw(st.sampled_from(ranks))
        if not steps:
            continue
        fault, at = draw(st.sampled_from(["other", "short", "lost", "twice", "replaced", "late"])), 0
        at = draw(st.integers(0, len(steps) - 1))
        images, replaced = steps[at]
        if fault == "other" and len(images):
            images[draw(st.integers(0, len(images) - 1))] = draw(ids)
        elif fault == "short":
            steps[at][0] = images[1:]
        elif fault == "lost":  # a step that this rank never made, and never knew of
            del steps[at]
        elif fault == "twice":
            steps.insert(at, [images.copy(), []])
        elif fault == "replaced" and len(images) and not replaced:
            instead = draw(ids)
            replaced.append((int(images[0]), instead))
            images[0] = instead
        elif fault == "late":
            steps.append(steps.pop(at))
    return order, first, (epoch + 1) * each, launches


@settings(deadline=None, max_examples=60)
@given(faulty_epochs())
def test_verdicts_are_those_of_counts_of_every_image(epoch):
    order, first, last, launches = epoch
    literal, before = LiteralLedger(order.index.image_id, first=first), Received(first)
    for step, ranks in launches:
        ledgers = ranks_of(order, len(ranks), first)
        for rank, (ledger, steps) in enumerate(zip(ledgers, ranks, strict=True)):
            ledger.resume(before if rank == 0 else Received(first), step)
            for images, replaced in steps:
                ledger.record(images, replaced)
                literal.record(images.tolist(), replaced)
        states = [ledger.received.to_tensor(len(order.index)) for ledger in ledgers]
        before = read_states(states, order, step)  # through a checkpoint
        assert before == add_up(ledgers)
    assert account(before, order, last) == literal.account(order, last)
    assert before.images == int(literal.counts[0].sum())


@settings(deadline=None, max_examples=40)
@given(faulty_epochs())
def test_counts_of_earlier_checkpoints_give_the_same_verdict(epoch):
    order, first, last, launches = epoch
    saved, ranks = launches[0]
    step = launches[1][0] if launches[1:] else last
    literals = [LiteralLedger(order.index.image_id, first=saved) for _ in ranks]
    whole = LiteralLedger(order.index.image_id, first=first)
    for literal, steps in zip(literals, ranks, strict=True):
        for images, replaced in steps:
            literal.record(images.tolist(), replaced)
    ledger = Ledger(order)
    ledger.resume(read_states([literal.to_tensor() for literal in literals], order, step), step)
    whole.counts = sum(literal.counts for literal in literals)
    for images in received(order, step, last, rank=0, world=1):
        ledger.record(images)
        whole.record(images.tolist())
    assert account(ledger.received, order, last) == whole.account(order, last)


def test_a_substituted_image_is_listed_and_not_lost():
    order = order_of(12, 4)
    ledgers = ranks_of(order, 2)
    for rank, ledger in enumerate(ledgers):
        for step, ids in enumerate(received(order, 0, 3, rank=rank, world=2)):
            if (rank, step) == (1, 1):
                (bad, good), ids = ids, ids[[1, 1]]
                ledger.record(ids, [(int(bad), int(good))])
            else:
                ledger.record(ids)
    found = account(add_up(ledgers), order, 3)
    found.check()
    assert found.substituted == (bad,)
    assert str(found) == (
        "images of epoch 0, steps 0 to 2: lost=0 duplicated=0 dropped=0 wrapped=0 substituted=1"
    )
    assert found.metrics()["data/substituted"] == 1
    assert found.table() == {"image_id": [bad], "what": ["substituted"]}


def test_a_rank_keeps_a_kilobyte_whatever_the_size_of_the_dataset():
    n = 10_000_000
    columns = {name: np.broadcast_to(np.full(1, 64, kind), n) for name, kind in COLUMNS.items()}
    columns["image_id"] = np.arange(n)
    order = Order(index=Index(**columns), augment=AugmentConfig(), batch_size=64, seed=0)
    ledger = Ledger(order, first=100_000, rank=3, world_size=8)
    for step, ids in enumerate(received(order, 100_000, 100_150, rank=3, world=8)):
        if step % 25 == 7:
            ids, replaced = ids[[0, 0, *range(2, 8)]], [(int(ids[1]), int(ids[0]))]
            ledger.record(ids, replaced)
        else:
            ledger.record(ids)
    state = ledger.received.to_tensor(n)
    assert state.numel() * state.element_size() <= 256
    assert len(ledger.received.replaced) == 6
    total = merge([ledger.received, *(r.received for r in ranks_of(order, 8, 100_000))])
    assert len(account(total, order, 100_150).lost) == 150 * 56


def test_counts_of_another_dataset_are_refused():
    order = order_of(12, 4)
    state = Received(3).to_tensor(12)
    assert read_states([], order, 3) is None
    for others in (
        (state, Received(4).to_tensor(12)),
        (Received(3).to_tensor(13),),
        (state[:5],),
        (Received(3, (Stretch(3, 4, 0, 4),)).to_tensor(12)[:-1],),
        (torch.tensor([3, 40, 0]),),  # of a run without a plan
        (torch.zeros(1 + 2 * 13, dtype=torch.int32),),
        (LiteralLedger(order.index.image_id, first=3).to_tensor(), Received(4).to_tensor(12)),
    ):
        with pytest.raises(DataError, match="belong to another checkpoint"):
            read_states(others, order, 3)


def test_images_that_are_not_of_the_training_set_are_refused():
    order = order_of(12, 4)
    for strange in (9, -1, 2):
        with pytest.raises(DataError, match=f"image {strange}, which is not in its index"):
            Ledger(order).record(np.array([order.index.image_id[0], strange]))
        with pytest.raises(DataError, match=f"image {strange}, which is not in its index"):
            Ledger(order).record(order.index.image_id[:1], [(strange, int(order.index.image_id[0]))])


@settings(deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=1), st.booleans())
def test_ids_that_come_twice_are_found_a_part_at_a_time(ids, in_order):
    ids = np.array(sorted(ids) if in_order else ids)
    if len(set(ids.tolist())) == len(ids):
        check_distinct(ids, together=5)
        assert rows_of({*ids.tolist(), 99}, ids) == {image: row for row, image in enumerate(ids.tolist())}
    else:
        with pytest.raises(DataError, match=r"image id -?\d+ twice") as found:
            check_distinct(ids, together=5)
        assert (ids == int(str(found.value).split()[6])).sum() > 1


class Heard(NullTracker):
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.points, self.tables = {}, {}

    def metrics(self, values, step):
        self.points[step] = dict(values)

    def table(self, columns, file):
        self.tables[file] = columns


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
        ledger = Ledger(order, first=2, rank=rank, world_size=4)
        ledger.record(*received(order, 2, 3, rank=rank, world=4))
        states.append(ledger.received.to_tensor(10))
    accounting = Accounting(order, World(0, 1, torch.device("cpu")), tracker, step=3)
    accounting.load(states)
    assert accounting.ledger.received == Received(2, (Stretch(2, 3, 0, 4),))
    micro = np.split(received(order, 3, 4, rank=0, world=1)[0], 2)
    accounting.record([batch_of(ids) for ids in micro])  # in two passes
    accounting.settle(4)
    assert tracker.points[4] == {"data/received": 8, "data/dropped": 2}
    assert accounting.state().tolist() == Received(4).to_tensor(10).tolist()


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
    found = Account(0, 0, 3, tuple(range(9)), (), (), (), ())
    with pytest.raises(DataError, match=r"lost: 0, 1, 2, 3, 4, \.\.\.; duplicated: none"):
        found.check()
