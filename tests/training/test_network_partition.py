"""Two hosts whose link is cut: both exit in time with an error and resume later, or survive a short cut.

The hosts are network namespaces of this machine, joined by a virtual cable.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ranks import assert_same, checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPO = Path(__file__).resolve().parents[2]
HOST_RANK = ("-m", "tests.support.host_rank")
STEPS = 40
TIMEOUT = 8
"""Seconds that a collective may take; DeepSpeed's own groups start with 30 minutes."""


class Hosts:
    """Two hosts, each with one end of a cable."""

    def __init__(self) -> None:
        letters = secrets.token_hex(2)  # interfaces have names of 15 letters at most
        self.names = (f"qdet-a-{letters}", f"qdet-b-{letters}")
        self.cables = (f"qa{letters}", f"qb{letters}")
        self.addresses = ("10.77.31.1", "10.77.31.2")
        self.processes: list[subprocess.Popen[str]] = []

    def up(self) -> bool:
        """Make them; False where this process may not."""
        made = [_ip("netns", "add", name) for name in self.names]
        made.append(_ip("link", "add", self.cables[0], "type", "veth", "peer", "name", self.cables[1]))
        for name, cable, address in zip(self.names, self.cables, self.addresses, strict=True):
            made.append(_ip("link", "set", cable, "netns", name))
            made.append(_ip("-n", name, "addr", "add", f"{address}/24", "dev", cable))
            made += [_ip("-n", name, "link", "set", device, "up") for device in (cable, "lo")]
        return all(made)

    def down(self) -> None:
        """Remove them with all that runs there."""
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self.names:
            _ip("netns", "del", name)  # takes the cable along
        _ip("link", "del", self.cables[0])

    def link(self, state: str) -> None:
        """Cut the link (`down`) or mend it (`up`)."""
        assert _ip("-n", self.names[0], "link", "set", self.cables[0], state)

    def train(self, shards: Path, store: Path, *, timeout: int) -> list["subprocess.Popen[str]"]:
        """Start one rank on each host, with the same command every time."""
        store.mkdir(exist_ok=True)
        (store / "step").unlink(missing_ok=True)
        started = []
        for rank, (name, cable) in enumerate(zip(self.names, self.cables, strict=True)):
            command = [*("ip", "netns", "exec", name, sys.executable), *HOST_RANK, str(rank)]
            command += [self.addresses[0], str(shards), str(store), str(STEPS), str(timeout)]
            environment = os.environ | {
                "GLOO_SOCKET_IFNAME": cable,
                "PYTHONPATH": str(REPO),
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
            }
            with (store / f"rank{rank}.log").open("a") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
                )
            started.append(process)
        self.processes += started
        return started


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and the command ip, to make network namespaces")
    made = Hosts()
    try:
        if not made.up():
            pytest.skip("no right to make network namespaces and a cable between them")
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def undisturbed(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing happens to, over the machine's own loopback."""
    store = tmp_path_factory.mktemp("undisturbed")
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    arguments = ["127.0.0.1", str(demo_shards), str(store), str(STEPS), "60"]
    command = [sys.executable, *HOST_RANK]
    both = [subprocess.Popen([*command, str(rank), *arguments], env=environment) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    return store


def test_a_permanent_partition_ends_both_ranks_in_time(hosts, demo_shards, undisturbed, tmp_path):
    both = hosts.train(demo_shards, tmp_path / "store", timeout=TIMEOUT)
    _reach(12, tmp_path / "store", both)
    hosts.link("down")
    cut = time.monotonic()
    codes = [process.wait(timeout=120) for process in both]
    took = time.monotonic() - cut
    print(f"both ended {took:.1f} s after the cut, with a timeout of {TIMEOUT} s")
    assert all(code != 0 for code in codes)
    assert took < TIMEOUT + 20
    hosts.link("up")
    both = hosts.train(demo_shards, tmp_path / "store", timeout=60)
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    log = (tmp_path / "store" / "rank0.log").read_text()
    assert "resuming from step" in log
    assert_same(checkpoint(tmp_path / "store", "run", STEPS), checkpoint(undisturbed, "run", STEPS))


def test_a_short_partition_is_survived(hosts, demo_shards, undisturbed, tmp_path):
    both = hosts.train(demo_shards, tmp_path / "store", timeout=30)
    _reach(12, tmp_path / "store", both)
    hosts.link("down")
    time.sleep(3.0)
    hosts.link("up")
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    assert "resuming from step" not in (tmp_path / "store" / "rank0.log").read_text()
    assert_same(checkpoint(tmp_path / "store", "run", STEPS), checkpoint(undisturbed, "run", STEPS))


def _reach(step: int, store: Path, processes: list["subprocess.Popen[str]"]) -> None:
    """Wait until training has made a step."""
    deadline = time.monotonic() + 200
    while not (store / "step").exists() or int((store / "step").read_text() or 0) < step:
        assert all(process.poll() is None for process in processes), (store / "rank0.log").read_text()
        assert time.monotonic() < deadline, (store / "rank0.log").read_text()
        time.sleep(0.05)


def _ip(*command: str) -> bool:
    return subprocess.run(["ip", *command], capture_output=True, check=False).returncode == 0
