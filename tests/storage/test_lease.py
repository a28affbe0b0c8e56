"""One writer per folder: contenders with a clock of their own, in memory, on disk and in a bucket."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from qdet.checkpoint import RunFolder
from qdet.checkpoint.term import term_of
from qdet.errors import ConfigError, LeaseError
from qdet.storage import Folder
from qdet.storage.lease import Fence, Owner, Terms, Waiting, acquire, hold
from qdet.storage.lease.owner import read_start
from tests.support.lease_contender import claim_twenty
from tests.support.small_checkpoints import write

SECONDS = 40.0
_NAMES = itertools.count()


class Clock:
    """Time passes where a contender sleeps; what else happens then is said by `meanwhile`."""

    def __init__(self, meanwhile=lambda now: None, gone=()):
        self.now, self.meanwhile, self.gone, self.said = 1000.0, meanwhile, gone, []

    def waiting(self) -> Waiting:
        return Waiting(
            say=self.said.append,
            clock=lambda: self.now,
            now=lambda: self.now,
            sleep=self._sleep,
            is_gone=lambda owner: owner.pid in self.gone,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)


def owner(pid: int) -> Owner:
    return Owner(host="elsewhere", machine="its boot", pid=pid, started=1.0)


def terms() -> Terms:
    return Terms(Folder.open(f"memory://lease-{next(_NAMES)}/run"))


def test_a_free_lease_is_taken_at_once_and_a_released_one_too():
    clock, run = Clock(), terms()
    first = acquire(run, owner(1), waiting=clock.waiting())
    run.release(first.number)
    second = acquire(run, owner(2), waiting=clock.waiting())
    assert (first.number, second.number, clock.now, clock.said) == (1, 2, 1000.0, [])


@pytest.mark.parametrize("renewed", [False, True])
def test_a_dead_holder_of_another_machine_is_waited_for_a_minute_at_most(renewed):
    clock, run = Clock(), terms()
    first = acquire(run, owner(1), waiting=clock.waiting())
    if renewed:
        run.renew(first.number, 7, clock.now)
    second = acquire(run, owner(2), waiting=clock.waiting())
    assert 40 <= clock.now - 1000 < 60
    assert "process 1 on elsewhere" in clock.said[0]
    assert "waiting up to 40 s" in clock.said[0]
    with pytest.raises(LeaseError, match="was taken over by process 2 on elsewhere"):
        first.check()
    second.check()


def test_a_lease_that_is_renewed_is_refused_and_can_be_taken_over():
    run, count = terms(), itertools.count(1)
    clock = Clock(lambda now: run.renew(1, next(count), now))
    first = acquire(run, owner(1), waiting=clock.waiting())
    with pytest.raises(
        LeaseError, match=r"process 1 on elsewhere, which still renews its lease; .*take-over"
    ):
        acquire(run, owner(2), waiting=clock.waiting())
    first.check()
    assert acquire(run, owner(2), take_over=True, waiting=clock.waiting()).number == 2
    assert not first.holds()


def test_who_was_renewed_last_long_ago_is_not_watched():
    clock, run = Clock(), terms()
    run.renew(acquire(run, owner(1), waiting=clock.waiting()).number, 3, clock.now - 2 * 3600)
    assert acquire(run, owner(2), waiting=clock.waiting()).number == 2
    assert clock.now == 1000.0


def test_a_process_that_is_seen_to_be_gone_is_not_waited_for():
    clock, run = Clock(gone={1}), terms()
    acquire(run, owner(1), waiting=clock.waiting())
    assert acquire(run, owner(2), waiting=clock.waiting()).number == 2
    assert clock.now == 1000.0
    assert "is gone" in clock.said[0]


def test_a_lease_lasts_as_long_as_its_holder_says():
    clock, run = Clock(), terms()
    acquire(run, owner(1), seconds=5.0, waiting=clock.waiting())
    acquire(run, owner(2), waiting=clock.waiting())
    assert 5 <= clock.now - 1000 < 7


def test_a_claim_that_cannot_be_read_is_waited_for():
    clock, run = Clock(), terms()
    run.folder.put("term_000004.json", b"{")
    assert acquire(run, owner(1), waiting=clock.waiting()).number == 5
    assert 40 <= clock.now - 1000 < 60


def test_an_owner_is_gone_when_its_process_is_and_when_another_has_its_number():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me, its = Owner.here(), replace(Owner.here(), pid=child.pid)
    assert not me.is_gone()
    assert its.is_gone()  # it began at another time
    its = replace(its, started=read_start(child.pid))
    assert not its.is_gone()
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert its.is_gone()
    child.wait()
    assert its.is_gone()
    assert not replace(its, machine="another").is_gone()
    assert not replace(its, host="another").is_gone()
    assert Owner.read(its.as_json()) == its


class Contenders(RuleBasedStateMachine):
    """Any order of claims, renewals, pauses and deaths: one holder at a time, and numbers that only grow.

    A literal model: the holder is the last contender that acquired; everything else is fenced.
    """

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.run, self.clock = terms(), Clock()
        self.renewing: set[int] = set()
        self.current: Fence | None = None
        self.counts = itertools.count(1)
        self.clock.meanwhile = self._renew_all

    def _renew_all(self, now: float) -> None:
        for number in self.renewing:
            if self.run.view().number == number:
                self.run.renew(number, next(self.counts), now)

    @rule(target=held, pid=st.integers(1, 5), take_over=st.booleans(), renews=st.booleans())
    def acquire(self, pid: int, take_over: bool, renews: bool):
        before, started = self.run.view(), self.clock.now
        alive = before.number in self.renewing and not before.released
        try:
            fence = acquire(
                self.run, owner(pid), seconds=SECONDS, take_over=take_over, waiting=self.clock.waiting()
            )
        except LeaseError:
            assert alive
            assert not take_over
            return multiple()
        assert take_over or not alive
        assert fence.number == before.number + 1
        waited = self.clock.now - started
        assert waited < 60
        assert not take_over or waited == 0
        if not (take_over or before.released or before.number == 0):
            assert waited >= SECONDS
        self.current = fence
        if renews:
            self.renewing.add(fence.number)
        return fence

    @rule(fence=held)
    def pause_or_die(self, fence: Fence) -> None:
        self.renewing.discard(fence.number)

    @rule(fence=held)
    def wake(self, fence: Fence) -> None:
        self.renewing.add(fence.number)

    @rule(fence=held)
    def release(self, fence: Fence) -> None:
        if fence.holds():
            self.run.release(fence.number)
            self.renewing.discard(fence.number)

    @rule(fence=held)
    def write(self, fence: Fence) -> None:
        if fence == self.current:
            fence.check()
        else:
            with pytest.raises(LeaseError):
                fence.check()

    @invariant()
    def the_highest_number_is_the_last_that_was_given(self) -> None:
        assert self.run.view().number == (0 if self.current is None else self.current.number)


TestContenders = Contenders.TestCase
TestContenders.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize("place", ["disk", "memory", "bucket"])
def test_of_contenders_at_once_one_claims_each_term(place, tmp_path, request):
    where = {"disk": str(tmp_path), "memory": f"memory://contended-{os.getpid()}"}.get(place)
    run = Terms(Folder.open(where or request.getfixturevalue("bucket")).child("run"))
    with ThreadPoolExecutor(3) as pool:
        won = list(pool.map(lambda pid: acquire(run, owner(pid), take_over=True).number, range(3)))
    assert len(set(won)) == 3  # every one in its turn, and no term twice
    assert run.view().number == max(won)


def test_of_processes_at_once_exactly_one_claims_each_term_on_disk(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, wins = context.Event(), context.Queue()
    processes = [context.Process(target=claim_twenty, args=(str(tmp_path), start, wins)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    won, ended = [], 0
    while ended < 3:
        number = wins.get(timeout=120)
        ended += number is None
        won += [] if number is None else [number]
    assert sorted(won) == list(range(1, 21))
    assert sorted(p.name for p in (tmp_path / "lease").iterdir()) == [
        f"term_{number:06d}.json" for number in range(1, 21)
    ]


def test_holding_renews_notices_a_loss_and_lets_go(tmp_path, monkeypatch):
    monkeypatch.setenv("QDET_LEASE_S", "0.5")
    folder, lost = Folder.open(tmp_path / "run"), []
    with hold(folder) as held:
        held.when_lost(lambda: lost.append(1))
        while held.fence.terms.beat(1).get("count", 0) < 2:
            pass
        with pytest.raises(LeaseError, match="still renews"), hold(folder):
            pass
        with hold(folder, take_over=True) as other:
            while not held.lost:
                pass
            with pytest.raises(LeaseError, match="was taken over"):
                held.check()
            other.check()
    assert lost == [1]
    assert held.fence.terms.view().released
    with hold(folder) as third:
        assert third.number == 3


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_seconds_that_are_no_time_are_refused(given, tmp_path, monkeypatch):
    monkeypatch.setenv("QDET_LEASE_S", given)
    with pytest.raises(ConfigError, match="QDET_LEASE_S"), hold(Folder.open(tmp_path)):
        pass


def test_a_folder_without_links_is_claimed_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    run = Terms(Folder.open(tmp_path))
    assert [run.claim(1, owner(1), 40.0), run.claim(1, owner(2), 40.0)] == [True, False]
    assert run.holder(1) == (owner(1), 40.0)


def test_a_file_system_that_can_is_asked_to_create(monkeypatch):
    from fsspec.asyn import AsyncFileSystem

    from qdet.storage.remote import RemoteFiles

    class Store(AsyncFileSystem):
        protocol, objects = "s3", {}

        def pipe_file(self, path, value, mode="overwrite", **_):
            if mode == "create" and path in self.objects:  # as S3 answers to If-None-Match: *
                raise FileExistsError(path)
            self.objects[path] = value

    files = RemoteFiles(Store(asynchronous=True, skip_instance_cache=True))
    assert [files.create("b/x", b"1"), files.create("b/x", b"2")] == [True, False]
    assert Store.objects == {"b/x": b"1"}


def test_what_a_writer_completes_after_it_has_lost_the_lease_does_not_count(tmp_path):
    folder = Folder.open(tmp_path / "run")
    first = RunFolder(folder, fence=acquire(Terms(folder), owner(1)))
    first.begin(0)
    write(first.at(5), step=5, attempt="t1-aaaa")
    second = RunFolder(folder, fence=acquire(Terms(folder), owner(2), take_over=True))
    second.begin(5)
    write(first.at(9), step=9, attempt="t1-aaaa")  # it had checked the lease before it was paused
    said = []
    assert second.newest_good(said.append).name == "step_000005"
    assert "had lost its lease: another had resumed from step 5" in said[0]
    assert list(RunFolder(folder).manifests()) == [5]
    write(second.at(9), step=9, attempt="t2-bbbb")
    assert term_of(second.manifests()[9].attempt) == 2
    assert second.newest_good(print).name == "step_000009"


def test_a_run_of_before_there_were_leases_counts(tmp_path):
    folder = Folder.open(tmp_path / "run")
    run = RunFolder(folder)
    write(run.at(5), step=5)
    fence = acquire(Terms(folder), owner(1))
    RunFolder(folder, fence=fence).begin(3)
    assert run.newest_good(print).name == "step_000005"
