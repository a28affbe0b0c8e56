"""With `--train.verify-every`, flipped bits are found, named, and leave no trace in what is learned."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdet.checkpoint import Piece
from qdet.checkpoint.rank_file import write_pieces
from qdet.checkpoint.tensor_digest import TOGETHER, combine, digest
from qdet.checkpoint.writing import write_share
from qdet.config import override
from qdet.errors import CheckpointError, ConfigError, StorageError
from qdet.job import TrainConfig
from qdet.storage import Folder
from qdet.training.checkpointing.read_back import check_written, digest_pieces
from qdet.training.corruption.record import Incident, add_incident, bad_hosts, read_incidents
from qdet.training.corruption.settle import find_changed, find_odd, settle
from qdet.training.corruption.turns import turn, turn_of_step
from tests.support.bit_flips import Flip, describe, train_with_flips
from tests.support.random_job import random_job
from tests.support.ranks import assert_same, checkpoint, on_ranks, train_all

pytestmark = pytest.mark.timeout(1200)
DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float64: torch.int64}


class TestDigest:
    def test_it_is_a_sum_of_words_times_odd_keys(self):
        """The literal definition, in Python's integers."""
        from qdet.checkpoint import tensor_digest

        values = torch.randn(TOGETHER + 5, generator=torch.manual_seed(0))
        keys = tensor_digest._keys_on(values.device).tolist()
        assert all(key % 2 for key in keys)
        words, expected = values.view(torch.int32).tolist(), 0
        for part in (words[:TOGETHER], words[TOGETHER:]):
            products = sum(word * key for word, key in zip(part, keys, strict=False))
            expected = (expected * tensor_digest._FACTOR + products) % 2**64
        assert int(digest(values)) % 2**64 == expected

    @given(size=st.integers(1, 70), data=st.data(), dtype=st.sampled_from(list(DTYPES)))
    def test_any_flipped_bit_changes_it(self, size, data, dtype):
        values = torch.randn(size, generator=torch.manual_seed(size)).to(dtype)
        before, bits = int(digest(values)), 8 * values.element_size()
        at, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, bits - 1))
        values.view(DTYPES[dtype])[at] ^= 1 << bit if bit < bits - 1 else -(1 << bit)
        assert int(digest(values)) != before

    def test_a_flip_in_an_early_part_of_a_long_tensor_changes_it(self):
        values = torch.zeros(3 * TOGETHER)
        before = int(digest(values))
        values[1] = -0.0
        assert int(digest(values)) != before

    def test_it_follows_the_order_of_elements_not_of_memory(self):
        values = torch.randn(2, 3, 4, 5)
        assert digest(values) == digest(values.to(memory_format=torch.channels_last))
        assert digest(values) != digest(values.flip(0))
        assert combine([digest(values), digest(values[0])]) != combine([digest(values[0]), digest(values)])


@given(ranks=st.integers(1, 9), passes=st.integers(1, 4))
def test_every_rank_has_its_turn_and_none_checks_itself(ranks, passes):
    first = [turn(check, ranks=ranks, passes=passes) for check in range(ranks)]
    assert sorted(t.checked for t in first) == sorted(t.checking for t in first) == list(range(ranks))
    rounds = max(ranks - 1, 1) * passes
    found = [turn(check, ranks=ranks, passes=passes) for check in range(ranks * rounds)]
    assert ranks == 1 or all(t.checked != t.checking for t in found)
    assert set(Counter((t.checked, t.checking) for t in found).values()) == {passes}
    assert {t.number for t in found} == set(range(passes))


def test_steps_between_checks_are_not_checked():
    due = [step for step in range(12) if turn_of_step(step, 4, ranks=2, passes=1)]
    assert due == [3, 7, 11]
    assert not any(turn_of_step(step, 0, ranks=2, passes=1) for step in range(12))


class TestVerdict:
    @given(ranks=st.integers(3, 6), data=st.data())
    def test_one_wrong_rank_among_three_is_always_found(self, ranks, data):
        checked, wrong = (data.draw(st.integers(0, ranks - 1)) for _ in "ab")
        checking = (checked + 1) % ranks
        lasting = data.draw(st.booleans())
        first = [7 if rank == wrong else 5 for rank in (checked, checking)]
        again = [7 if lasting and rank == wrong else 5 for rank in range(ranks)]
        if first[0] == first[1]:
            return
        verdict = settle(checked, first[0], {checking: first[1]}, again)
        assert (verdict.suspects, verdict.decided, verdict.lasting) == ((wrong,), True, lasting)

    @given(ranks=st.integers(3, 6), data=st.data())
    def test_where_all_check_one_wrong_rank_is_always_found(self, ranks, data):
        checked, wrong = (data.draw(st.integers(0, ranks - 1)) for _ in "ab")
        first, lasting = (data.draw(st.booleans()) for _ in "ab")
        results = [5] * ranks
        results[wrong] = 5 if first and wrong == checked else 7
        again = [7 if lasting and rank == wrong else 5 for rank in range(ranks)]
        verdict = settle(checked, 7 if first and wrong == checked else 5, dict(enumerate(results)), again)
        assert (verdict.suspects, verdict.decided, verdict.lasting) == ((wrong,), True, lasting)

    def test_a_transient_fault_of_one_of_two_is_found(self):
        verdict = settle(1, 7, {0: 5}, [5, 5])
        assert (verdict.suspects, verdict.decided, verdict.lasting) == ((1,), True, False)
        assert settle(1, 5, {0: 7}, [5, 5]).suspects == (0,)

    def test_two_that_always_differ_leave_it_undecided(self):
        verdict = settle(1, 7, {0: 5}, [5, 7])
        assert (verdict.suspects, verdict.decided, verdict.lasting) == ((0, 1), False, True)

    def test_one_rank_alone_is_its_own_third_computation(self):
        assert settle(0, 7, {0: 5}, [5]).decided
        assert not settle(0, 7, {0: 5}, [5]).lasting
        assert not settle(0, 7, {0: 5}, [6]).decided

    def test_a_state_that_changed_is_its_own_witness(self):
        assert find_changed([1, 1]) is None
        verdict = find_changed([1, 0])
        assert (verdict.suspects, verdict.decided, verdict.lasting) == ((1,), True, True)

    def test_copies(self):
        assert find_odd([1, 1, 1]) is None
        assert find_odd([1, 2, 1]).suspects == (1,)
        assert find_odd([1, 2]).suspects == (0, 1)
        assert not find_odd([1, 2]).decided


def test_the_record_of_a_run(tmp_path):
    folder = Folder.open(tmp_path)
    assert read_incidents(folder) == ()
    sure = Incident(step=4, what="the gradient of rank 1", ranks=(1,), hosts=("b",), decided=True)
    unsure = Incident(step=8, what="the copy of weights", ranks=(0, 1), hosts=("a", "b"), decided=False)
    for incident in (sure, unsure):
        add_incident(folder, incident)
    assert read_incidents(folder) == (sure, unsure)
    assert bad_hosts(read_incidents(folder)) == {"b"}
    assert str(sure) == "step 4: the gradient of rank 1 was wrong on rank 1 (host b)"
    assert str(unsure) == "step 8: the copy of weights differed on ranks 0 or 1 (host a, b)"
    (tmp_path / "corruption.json").write_text("[]")
    with pytest.raises(StorageError, match="remove it"):
        read_incidents(folder)


class TestReadBack:
    def pieces(self):
        values = torch.randn(50, generator=torch.manual_seed(1))
        return [Piece("weights/a", 0, values), Piece("exp_avg/a", 7, values[:9] * 2)]

    def test_what_is_written_as_it_was_held_passes(self, tmp_path):
        folder, held = Folder.open(tmp_path), digest_pieces(self.pieces())
        write_pieces(folder, "share", self.pieces())
        check_written(folder, "share", held)

    def test_a_bit_that_flipped_in_the_copy_is_found(self, tmp_path):
        folder, held, copies = Folder.open(tmp_path), digest_pieces(self.pieces()), self.pieces()
        copies[1].values.view(torch.int32)[3] ^= 1
        write_pieces(folder, "share", copies)
        with pytest.raises(CheckpointError, match=r"1 pieces of .*/share, such as exp_avg/a@7"):
            check_written(folder, "share", held)

    def test_a_share_that_does_not_read_back_is_not_reported(self, tmp_path):
        folder = Folder.open(tmp_path)

        def refuse(name):
            assert (tmp_path / name).exists()
            raise CheckpointError("other bytes")

        with pytest.raises(CheckpointError, match="other bytes"):
            write_share(folder, rank=0, attempt="a", pieces=self.pieces(), check=refuse)
        assert [path.name for path in tmp_path.iterdir()] == ["rank_00000.a.safetensors"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verify_every": -1}, "--train.verify-every must be 0"),
        ({"verify_every": 5, "accelerator": "auto"}, "--train.deterministic"),
        ({"exclude_bad_hosts": True}, "--train.verify-every 500"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        TrainConfig(**changes)


def verified_job(shards, *, zero, workers, **changes):
    """Six steps; a check in every second one: of ranks 0, 1 and 2 in steps 2, 4 and 6."""
    settings = {"train.accelerator": "cpu", "train.verify_every": 2, "optim.ema_decay": 0.9}
    return override(random_job(shards, zero=zero, workers=workers), settings | changes)


def train_flipped(shards, store, flips, *, zero, workers=3):
    """Train once without and once with each flip; return the incidents and what was raised, by flip."""
    jobs = {
        name: verified_job(shards, zero=zero, workers=workers) for name in ("sound", *map(describe, flips))
    }
    store.mkdir(parents=True, exist_ok=True)
    on_ranks(workers, train_with_flips, {describe(flip): flip for flip in flips}, jobs, store, apart=True)
    assert read_incidents(Folder.open(store / "sound")) == ()
    found = {}
    for flip in flips:
        ends = [
            json.loads((store / f"{describe(flip)}.{rank}.end.json").read_text())["said"]
            for rank in range(workers)
        ]
        assert len({bool(said) for said in ends}) == 1
        found[flip] = read_incidents(Folder.open(store / describe(flip))), ends[0]
    return found


def assert_undone(store, flip):
    """What was learned has no trace of the flip."""
    assert_same(checkpoint(store, describe(flip), 6), checkpoint(store, "sound", 6))


def assert_found(found, flip, *, lasting=False, ranks=None):
    incidents, said = found[flip]
    assert incidents, flip
    assert incidents[0].step == flip.step
    assert set(incidents[0].ranks) == (ranks or {flip.rank})
    assert bool(said) == lasting, said


def assert_found_at_the_checkpoint(found, flip, store):
    """The checkpoint of the flip's own step is not written: ranks hold different copies."""
    assert_found(found, flip, lasting=True)
    assert "Training resumes from the last checkpoint" in found[flip][1]
    assert not (store / describe(flip) / f"step_{flip.step:06d}").exists()


TRANSIENT = [
    Flip("activations", rank=0, step=2),  # checked
    Flip("gradients", rank=1, step=4),  # checked
]


@pytest.mark.slow
@pytest.mark.ci_slow
def test_bits_that_flip_in_a_checked_step_are_found_and_leave_no_trace(demo_shards, tmp_path):
    between = Flip("optimizer", rank=2, step=3)
    found = train_flipped(demo_shards, tmp_path, [TRANSIENT[0], between], zero=0)
    assert_found(found, TRANSIENT[0])
    assert_undone(tmp_path, TRANSIENT[0])
    assert_found_at_the_checkpoint(found, between, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bits_that_flip_at_any_stage(demo_shards, tmp_path, zero):
    flips = [
        *TRANSIENT,
        Flip("activations", rank=2, step=6),
        Flip("gradients", rank=0, step=2),
        Flip("gradients", rank=1, step=3),  # in a step that is not checked
    ]
    lasting = [Flip("activations", rank=1, step=4, times=9), Flip("gradients", rank=0, step=2, times=9)]
    weights = [Flip("weights", rank=1, step=4)]
    weights += [Flip("weights", rank=1, step=3)] if zero == 0 else []
    found = train_flipped(demo_shards, tmp_path, [*flips, *lasting, *weights], zero=zero)
    for flip in flips[:-1]:
        assert_found(found, flip)
        assert_undone(tmp_path, flip)
    assert found[flips[-1]] == ((), "")
    for flip in lasting:
        assert_found(found, flip, lasting=True)
    assert_found(found, weights[0], lasting=True)
    if zero == 0:
        assert_found_at_the_checkpoint(found, weights[1], tmp_path)


@pytest.mark.slow
def test_with_zero_3_every_rank_computes_what_is_checked(demo_shards, tmp_path):
    """So that one that is wrong in what it gathers is found in every turn, and named."""
    once = [
        Flip("gathered", rank=1, step=4),  # checked
        Flip("gathered", rank=2, step=4),  # not in turn, and only its own micro-batch is wrong
        Flip("gathered", rank=2, step=4, times=2),  # also the one that is checked
        Flip("gathered", rank=0, step=3),  # in a step that is not checked
    ]
    lasting = Flip("gathered", rank=2, step=2, times=9)
    found = train_flipped(demo_shards, tmp_path, [*once, lasting], zero=3)
    for flip in (once[0], once[2]):
        assert_found(found, flip)
        assert found[flip][0][0].decided
        assert_undone(tmp_path, flip)
    assert found[once[1]] == found[once[3]] == ((), "")
    assert_found(found, lasting, lasting=True)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_what_one_rank_alone_holds_is_found_in_the_next_check(demo_shards, tmp_path, zero):
    """That is where it flips after the last update before it; what flips earlier is in that update."""
    checked, between = Flip("optimizer", rank=0, step=4), Flip("weights", rank=0, step=3)
    flips = [checked, between, *([Flip("weights", rank=2, step=4)] if zero == 3 else [])]
    found = train_flipped(demo_shards, tmp_path, flips, zero=zero)
    assert found[between] == ((), "")
    for flip in (checked, *flips[2:]):
        assert_found(found, flip, lasting=True)
        (incident,) = found[flip][0]
        assert (incident.what, incident.decided) == ("the share of weights and optimizer state", True)


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "step", "named"), [(0, 5, ((0, 1), False)), (3, 6, ((1,), True))])
def test_a_run_that_ended_by_wrong_weights_resumes_to_what_it_would_have_been(
    demo_shards, tmp_path, zero, step, named
):
    flip = Flip("weights", rank=1, step=step)
    found = train_flipped(demo_shards, tmp_path, [flip], zero=zero, workers=2)
    incidents, said = found[flip]
    assert (incidents[0].ranks, incidents[0].decided) == named
    assert said
    job = verified_job(demo_shards, zero=zero, workers=2)
    train_all(2, {describe(flip): job}, tmp_path)
    assert_undone(tmp_path, flip)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_checks_change_nothing_of_what_is_learned(demo_shards, tmp_path, zero):
    jobs = {}
    for name, every in (("with", 1), ("without", 0)):
        job = verified_job(demo_shards, zero=zero, workers=2, **{"train.verify_every": every})
        jobs[name] = override(job, {"train.accumulation": 2})
    on_ranks(2, train_with_flips, {}, jobs, tmp_path, apart=True)
    assert read_incidents(Folder.open(tmp_path / "with")) == ()
    assert_same(checkpoint(tmp_path, "with", 6), checkpoint(tmp_path, "without", 6))
