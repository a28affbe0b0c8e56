"""How ranks find each other: only with the secret, on one interface, and without pickles between them."""

import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._distributed_c10d import HashStore
from torch.distributed import DistStoreError, distributed_c10d

from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ClusterError, ConfigError, DataError, EvaluationError
from qdet.evaluation import evaluate
from qdet.job import EvalConfig
from qdet.training.distributed import join
from qdet.training.evaluate import _judge_together
from qdet.training.joining import channel, host
from qdet.training.joining import rendezvous as meeting
from qdet.training.joining.channel import JoinError, accept, connect
from qdet.training.joining.exchange import describe_error, restore_error
from qdet.training.joining.host import Host
from qdet.training.joining.rendezvous import (
    derive_secret,
    host_store,
    is_loopback,
    join_store,
    join_when_up,
    require_secret,
)
from tests.support.random_detections import random_rows
from tests.support.ranks import _train, on_ranks, tiny_job

SECRET = b"of this run"
LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def rank_0():
    opened = Host(LOOPBACK, SECRET)
    yield opened
    opened.close()


@pytest.fixture
def ends(request):
    """Both ends of a channel."""
    server = socket.create_server(LOOPBACK)
    found = []
    thread = threading.Thread(target=lambda: found.append(accept(server.accept()[0], SECRET)))
    thread.start()
    member = connect(server.getsockname(), SECRET, timeout=5)
    thread.join()
    yield found[0], member
    for one in (server, found[0], member):
        one.close()


def test_values_arrive_as_they_were_sent(ends):
    one, other = ends
    for sender, receiver in ((one, other), (other, one)):
        sender.send(["set", b"\x00\xff", 3, None])
        assert receiver.receive() == ["set", b"\x00\xff", 3, None]


class Wire:
    """A socket that keeps what is written."""

    def __init__(self):
        self.written = b""

    def sendall(self, data):
        self.written += data


def record(end, *messages):
    """What an end would write, message by message."""
    found = []
    for message in messages:
        end.socket, kept = Wire(), end.socket
        end.send(message)
        found.append(end.socket.written)
        end.socket = kept
    return found


@pytest.mark.parametrize("change", ["repeated", "reordered", "flipped", "reflected", "too long"])
def test_a_message_that_is_not_what_was_sent_ends_the_connection(ends, change):
    one, other = ends
    first, second = record(one, "first", "second")
    sent = {
        "repeated": first + first,
        "reordered": second,
        "flipped": first[:-1] + bytes([first[-1] ^ 1]),
        "reflected": record(other, "first")[0],
        "too long": (channel.LONGEST + 1).to_bytes(4, "big") + first[4:],
    }
    one.socket.sendall(sent[change])
    with pytest.raises(JoinError):
        other.receive(), other.receive()


def test_neither_end_believes_one_without_the_secret(rank_0):
    with pytest.raises(OSError, match="closed"):
        connect(rank_0.address, b"another", timeout=5)
    false = Host(LOOPBACK, b"of somebody else")
    with pytest.raises(OSError, match="closed"):  # the false rank 0 cannot verify the proof
        join_store(false.address, SECRET, timeout=5)
    false.close()


def test_a_false_rank_0_that_takes_every_proof_is_refused():
    server = socket.create_server(LOOPBACK)

    def pretend():
        joined, _ = server.accept()
        joined.sendall(channel._GREETING + bytes(32))
        joined.recv(64)
        joined.sendall(bytes(32))

    threading.Thread(target=pretend, daemon=True).start()
    with pytest.raises(JoinError, match="does not know the secret"):
        connect(server.getsockname(), SECRET, timeout=5)
    server.close()


class Agent(HashStore):
    """torchrun's store, which anybody may have written, and what was read in it."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.set("qdet/join", address)
        self.read = []

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)


@pytest.mark.parametrize("honest", [True, False])
def test_of_torchruns_store_the_address_is_read_and_nothing_else(rank_0, honest, monkeypatch):
    """Who writes the address of a host without the secret there keeps a run from starting."""
    false = Host(LOOPBACK, b"of somebody else")
    host, port = (rank_0 if honest else false).address
    agent = Agent(f"{host} {port}")
    agents = {"MASTER_ADDR": host, "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in agents.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "rendezvous", lambda *_, **__: iter([(agent, 1, 2)]))
    if honest:
        meeting.meet(1, SECRET, timeout=5)
    else:
        with pytest.raises(ClusterError, match="rank 0 cannot be joined"):
            meeting.meet(1, SECRET, timeout=1)
    assert set(agent.read) == {"qdet/join"}
    false.close()


def test_torchs_own_client_is_no_member(rank_0):
    with pytest.raises(Exception, match=r"(?i)time|connect|reset|closed|broken|recv|fail"):
        dist.TCPStore(*rank_0.address, 2, is_master=False, timeout=timedelta(seconds=2))
    assert rank_0.table.count() == 0


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_no_bytes_of_a_stranger_reach_the_table(data):
    rank_0 = Host(LOOPBACK, SECRET)
    with socket.create_connection(rank_0.address, 5) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            received = b"".join(iter(lambda: stranger.recv(4096), b""))
            assert len(received) <= len(channel._GREETING) + 32  # greeting and number, no answer
    member = join_store(rank_0.address, SECRET, timeout=5)
    assert member.num_keys() == 0
    rank_0.close()


def test_idle_strangers_keep_no_member_out_for_long(rank_0, monkeypatch):
    monkeypatch.setattr(channel, "HANDSHAKE", 0.5)
    idle = [socket.create_connection(rank_0.address) for _ in range(host.STRANGERS + 5)]
    member = join_when_up(lambda: rank_0.address, SECRET, 20)
    member.set("key", b"value")
    assert rank_0.table.get("key", 0) == b"value"
    for one in idle:
        one.close()


def test_ranks_that_never_meet_say_what_to_check():
    with socket.create_server(LOOPBACK) as nobody:
        address = nobody.getsockname()
    with pytest.raises(ClusterError, match="QDET_JOIN_SECRET"):
        join_when_up(lambda: address, SECRET, 0.1)


def test_a_value_that_never_comes_is_an_error_in_time(rank_0):
    for store in (host_store(rank_0, timeout=0.1), join_store(rank_0.address, SECRET, timeout=0.1)):
        with pytest.raises(DistStoreError, match="no rank has set missing"):
            store.get("missing")


KEYS, VALUES = st.sampled_from("ab"), st.sampled_from([b"1", b"2", b"-7"])
OPERATIONS = st.one_of(
    st.tuples(st.just("set"), KEYS, VALUES),
    st.tuples(st.just("add"), KEYS, st.integers(-3, 3)),
    st.tuples(st.just("check"), st.lists(KEYS, min_size=1, max_size=2)),
    st.tuples(st.just("compare_set"), KEYS, VALUES, VALUES),
    st.tuples(st.just("delete_key"), KEYS),
    st.tuples(st.just("append"), KEYS, st.just(b"4")),
)


@settings(max_examples=15)
@given(st.lists(OPERATIONS, max_size=12))
def test_it_answers_as_torchs_store_in_memory(operations):
    rank_0, torchs = Host(LOOPBACK, SECRET), HashStore()
    ours = [host_store(rank_0, timeout=5), join_store(rank_0.address, SECRET, timeout=5)]
    for turn, (name, *arguments) in enumerate(operations):
        if name == "append" and not torchs.check([arguments[0]]):
            continue
        assert getattr(ours[turn % 2], name)(*arguments) == getattr(torchs, name)(*arguments)
    for key in "ab":
        assert ours[0].check([key]) == ours[1].check([key]) == torchs.check([key])
        if torchs.check([key]):
            assert ours[0].get(key) == ours[1].get(key) == torchs.get(key)
    rank_0.close()


def test_each_run_has_a_secret_of_its_own(monkeypatch):
    assert derive_secret("shared", "run-1") != derive_secret("shared", "run-2") != derive_secret("x", "run-2")
    monkeypatch.delenv("QDET_JOIN_SECRET", raising=False)
    with pytest.raises(ConfigError, match="set QDET_JOIN_SECRET"):
        require_secret(None)


def test_loopback_is_told_from_other_addresses():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.0.0.9")))
    assert not any(map(is_loopback, ("192.0.2.1", "0.0.0.0", "8.8.8.8")))


def test_errors_of_rank_0_keep_their_class_if_it_is_ours():
    class Special(DataError):
        pass

    restored = restore_error(describe_error(Special("no such shard")))
    assert type(restored) is DataError
    assert str(restored) == "no such shard"
    assert type(restore_error(describe_error(KeyError("x")))) is RuntimeError
    assert type(restore_error({"kind": "did_you_mean", "said": "x", "transient": False})) is RuntimeError
    away = DataError("the server is away")
    away.transient = True
    assert restore_error(describe_error(away)).transient
    assert not restored.transient


def fail_on_two(rank):
    """Of several errors the lowest rank's is raised by the ranks without one."""
    if rank == 1:
        raise DataError("of rank 1")
    if rank == 2:
        raise RuntimeError("of rank 2")


def evaluate_together(world, shards):
    """AP of detections that are spread over the ranks, and what all say of those that cannot be right."""
    val = ShardSet.open(shards / "val")
    rows = random_rows(np.random.default_rng(0), val.ground_truth())
    rank_of = np.random.default_rng(1).integers(0, world.size, len(val))
    seen = rows.seen[rank_of == world.rank]
    mine = replace(rows.select(np.isin(rows.image_ids, seen)), seen=seen)
    found, whole = _judge_together(mine, val, EvalConfig(), world), evaluate(val.ground_truth(), rows)
    assert json.dumps(asdict(found)) == json.dumps(asdict(whole))  # NaN is NaN
    assert found.AP > 0.01
    broken = replace(mine, scores=np.where(world.rank == 2, np.nan, mine.scores))
    with pytest.raises(EvaluationError, match="a score that is not finite"):
        _judge_together(broken, val, EvalConfig(), world)
    twice = replace(mine, seen=rows.seen[rank_of <= world.rank])
    with pytest.raises(EvaluationError, match="evaluated more than once"):
        _judge_together(twice, val, EvalConfig(), world)


def exchange(folder, shards):
    """What three ranks exchange, and where this process listens."""
    world = join("cpu", timeout=30)
    listening = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]
    gathered = world.gather({"rank": world.rank, "nan": float("nan")})
    arrays = {"ids": np.arange(3 * world.rank), "boxes": np.full((world.rank, 4), 0.1)}
    parts = world.gather_arrays(arrays)
    if world.main:
        assert [one["rank"] for one in gathered] == [0, 1, 2]
        assert all(np.isnan(one["nan"]) for one in gathered)
        for rank, part in enumerate(parts):
            np.testing.assert_array_equal(part["ids"], np.arange(3 * rank))
            np.testing.assert_array_equal(part["boxes"], np.full((rank, 4), 0.1))
    assert world.broadcast([world.rank, "x"]) == [0, "x"]
    sent = [{"ids": np.arange(world.rank * 10, world.rank * 10 + to)} for to in range(3)]
    for source, part in enumerate(world.exchange_arrays(sent)):
        np.testing.assert_array_equal(part["ids"], np.arange(source * 10, source * 10 + world.rank))
    group = dist.new_group([0, 1, 2])
    total = torch.ones(1)
    dist.all_reduce(total, group=group)
    with pytest.raises(KeyError if world.main else RuntimeError, match="missing"):
        world.on_main(lambda: {}["missing"])
    assert world.on_all(lambda: world.rank) == world.rank
    with pytest.raises(RuntimeError if world.rank == 2 else DataError, match=r"of rank [12]"):
        world.on_all(partial(fail_on_two, world.rank))
    evaluate_together(world, shards)
    local = bool(listening) and all(map(is_loopback, listening))
    (folder / f"{world.rank}").write_text(f"{int(total)} {local}")


def test_three_ranks_exchange_values_on_loopback_alone(demo_shards, tmp_path):
    on_ranks(3, exchange, tmp_path, demo_shards)
    assert {(tmp_path / str(rank)).read_text() for rank in range(3)} == {"3 True"}


def train_without_unpickling(jobs, store):
    """Train while torch's pickles between ranks raise."""

    def refuse(*_, **__):
        raise AssertionError("a rank unpickled what another sent")

    distributed_c10d._object_to_tensor = distributed_c10d._tensor_to_object = refuse
    _train(jobs, store)
    (store / f"rank_{os.environ['RANK']}").write_text("done")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_no_rank_unpickles_what_another_sent(demo_shards, tmp_path):
    changes = {"train.workers": 2, "train.steps": 2, "train.zero": 2}
    on_ranks(2, train_without_unpickling, {"run": tiny_job(demo_shards, **changes)}, tmp_path)
    assert (tmp_path / "rank_1").is_file()
    with pytest.raises(Exception, match="a rank unpickled"):
        on_ranks(2, unpickle, tmp_path)


def unpickle(folder):
    """What the test above would see."""
    join("cpu", timeout=30)

    def refuse(*_, **__):
        raise AssertionError("a rank unpickled what another sent")

    distributed_c10d._object_to_tensor = refuse
    dist.broadcast_object_list([{}])
