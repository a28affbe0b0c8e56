"""A node whose processor goes wrong is found, left out from then on, and leaves no trace."""

import json
import re
import socket
from pathlib import Path

import pytest

from tests.launch.test_bad_hosts import only_where_nodes_are_named
from tests.support.cluster_marks import on_a_cluster
from tests.support.faulty_machine import environment_of, ranks_on, wrong_on
from tests.support.mlflow_runs import find_run
from tests.support.one_worker import assert_equals_one_worker, to_flags

pytestmark = on_a_cluster()

STEPS = 30
SETTINGS = {
    "train.steps": STEPS,
    "train.batch_size": 12,
    "train.log_every": 1,
    "train.checkpoint_every": 5,
    "train.keep_checkpoints": 100,
    "optim.ema_decay": 0.9,
    "optim.lr": 2.5e-7,
    # Large images, so that training lasts longer than several looks for room for more workers.
    "data.augment.sizes": (256,),
    "data.augment.max_size": 256,
}
EXCLUDING = ("--train.verify-every", "1", "--train.exclude-bad-hosts")
BAD = f"{socket.gethostname()}@127.0.0.4"
"""What the second node is called: nodes of one machine share its host name."""


@pytest.fixture
def machines(project: Path, nodes) -> dict[int, Path]:
    """Three nodes, by the last number of their addresses: the second's processor breaks after 6 steps."""
    folders = {host: project / f"machine{host}" for host in (3, 4, 5)}
    for host, folder in folders.items():
        nodes.add(host, environment=environment_of(folder, wrong_from=6 if host == 4 else None))
    return folders


def assert_found(project: Path, run: str, machines: dict[int, Path]) -> int:
    """Assert that the bad machine trained once and was named, recorded and counted; return the step."""
    ((step, rank),) = wrong_on(machines[4])
    assert ranks_on(machines[4]) == [(3, rank)]
    record = json.loads((project / "outputs" / run / "corruption.json").read_text())
    (found,) = record["incidents"]
    what = f"the gradient of rank {rank}"
    assert found == {"step": step, "what": what, "ranks": [rank], "hosts": [BAD], "decided": True}
    client, tracked = find_run(project, run)
    counts = client.get_metric_history(tracked.info.run_id, "train/corruptions")
    assert {int(one.value) for one in counts if one.step < step - step % 5} == {0}
    assert {int(one.value) for one in counts if one.step >= step} == {1}
    return step


@only_where_nodes_are_named
def test_a_node_that_computes_wrong_gets_no_worker_again(project: Path, nodes, machines, start, monkeypatch):
    monkeypatch.setenv("QDET_GROWTH_CHECK_S", "3")
    run = ("--train.workers", "1:3", "--store.run", "elastic", "--ray-address", nodes.address)
    job = start(*to_flags(SETTINGS), *EXCLUDING, *run)
    assert job.end() == 0
    step = assert_found(project, "elastic", machines)
    assert f"silent corruption: step {step}: the gradient of rank" in job.text
    assert f"no workers on {BAD}: found wrong before" in job.text
    assert re.findall(rf"resuming from step (\d+) of {STEPS}", job.text) == [str(step - 1 - (step - 1) % 5)]
    for host in (3, 5):
        assert [size for size, _ in ranks_on(machines[host])] == [3, 2]
    assert_equals_one_worker(project, "elastic", SETTINGS)


def test_a_run_that_is_left_too_few_nodes_ends_with_what_to_do(project: Path, nodes, machines, start):
    settings = SETTINGS | {"data.augment.sizes": (64,), "data.augment.max_size": 64}
    where = ("--ray-address", nodes.address, "--ray-wait", "3")
    flags = (*to_flags(settings), *EXCLUDING, *where)
    job = start(*flags, "--train.workers", "3", "--store.run", "fixed")
    assert job.end() == 1
    record = project / "outputs" / "fixed" / "corruption.json"
    last = job.text.strip().splitlines()[-1]
    assert last == (
        f"ClusterError: --train.exclude-bad-hosts: {BAD} computed something wrong in this run ({record}), "
        f"and without {BAD} the cluster has room for 2 of at least 3 workers; give --train.workers 2, add "
        "nodes, or drop --train.exclude-bad-hosts. "
        "--store.resume fixed resumes from the last checkpoint"
    )
    assert "Traceback" not in job.text.partition(f"no workers on {BAD}")[2]
    ended = find_run(project, "fixed")[1]
    assert (ended.info.status, last) == ("FAILED", f"ClusterError: {ended.data.tags['qdet.cause']}")

    again = start(*flags, "--train.workers", "2", "--store.resume", "fixed")  # as the line says
    assert again.end() == 0
    assert_found(project, "fixed", machines)
    for host in (3, 5):
        assert [size for size, _ in ranks_on(machines[host])] == [3, 2]
    assert_equals_one_worker(project, "fixed", settings)
