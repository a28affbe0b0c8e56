"""A run on nodes that come and go: it shrinks, grows, and its losses stay those of one worker."""

import json
import time
from pathlib import Path

import pytest

from tests.support.cluster_marks import on_a_cluster
from tests.support.mlflow_runs import find_run
from tests.support.one_worker import assert_equals_one_worker, to_flags

pytestmark = on_a_cluster()

STEPS = 44
RESUMING = rf"resuming from step (\d+) of {STEPS}"
SETTINGS = {
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.log_every": 1,
    "train.checkpoint_every": 5,
    "train.keep_checkpoints": 100,
    "optim.ema_decay": 0.9,
    # Large images, so that a node can join during a step.
    "data.augment.sizes": (384,),
    "data.augment.max_size": 384,
    "optim.lr": 2.5e-7,
}


@pytest.mark.ci_slow
def test_a_run_shrinks_when_a_node_dies_and_grows_when_one_comes(project: Path, nodes, start, monkeypatch):
    monkeypatch.setenv("QDET_GROWTH_CHECK_S", "5")
    nodes.add(3, 4, 5)
    job = start(
        *to_flags(SETTINGS),
        "--train.workers",
        "1:3",
        "--store.run",
        "elastic",
        "--ray-address",
        nodes.address,
    )
    job.wait_for(rf"step 7/{STEPS}")
    startup = job.when(rf"step 1/{STEPS}") - job.started
    before, killed = len(job.lines), time.monotonic()
    nodes.kill(4)
    job.wait_for(RESUMING, after=before)
    job.wait_for(rf"step 1[1-9]/{STEPS}", after=before + 1)  # by then two workers have written a checkpoint
    shrunk = job.when(r"resuming from step", after=killed) - killed
    nodes.add(6)
    before, added = len(job.lines), time.monotonic()
    job.wait_for(RESUMING, after=before)
    grown = job.when(r"resuming from step", after=added) - added
    assert job.end() == 0
    print(f"start-up {startup:.0f} s, 2 workers after {shrunk:.0f} s, 3 after {grown:.0f} s")
    worlds = worlds_of(project / "outputs" / "elastic")
    assert {2, 3} <= set(worlds.values())
    assert_equals_one_worker(project, "elastic", SETTINGS)


def worlds_of(run: Path) -> dict[int, int]:
    """Return the number of workers that wrote each checkpoint, by step."""
    manifests = [json.loads(file.read_text()) for file in run.glob("step_*/manifest.json")]
    return {manifest["step"]: manifest["world_size"] for manifest in manifests}


def test_a_drained_node_saves_a_checkpoint_and_the_run_continues(project: Path, nodes, start, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    nodes.add(3, 4)
    settings = SETTINGS | {"train.checkpoint_every": 10}
    job = start(
        *to_flags(settings),
        "--train.workers",
        "1:2",
        "--store.run",
        "elastic",
        "--ray-address",
        nodes.address,
    )
    job.wait_for(rf"step 11/{STEPS}")
    before = len(job.lines)
    nodes.drain(4, seconds=60)
    drained = time.monotonic()
    while not (unplanned := [s for s in worlds_of(project / "outputs" / "elastic") if s % 10]):
        assert time.monotonic() < drained + 60, "no checkpoint before the node is preempted"
        time.sleep(0.2)
    print(f"a checkpoint {time.monotonic() - drained:.0f} s after the notice, of step {unplanned}")
    nodes.kill(4)
    found = job.wait_for(RESUMING, after=before)
    assert int(found[1]) >= unplanned[0]
    assert job.end() == 0
    assert_equals_one_worker(project, "elastic", settings)


def test_a_run_of_fixed_size_fails_with_its_cause_when_a_node_dies(project: Path, nodes, start):
    nodes.add(3, 4)
    run = ("--train.workers", "2", "--train.max-failures", "0", "--store.run", "fixed")
    job = start(*to_flags(SETTINGS), *run, "--ray-address", nodes.address)
    job.wait_for(rf"step 6/{STEPS}")
    nodes.kill(4)
    assert job.end() == 1
    ended = find_run(project, "fixed")[1]
    assert ended.info.status == "FAILED"
    last = job.text.strip().splitlines()[-1]
    assert last == f"TrainingError: {ended.data.tags['qdet.cause']}"
    assert "training failed" in last
    assert "--store.resume fixed resumes from its last checkpoint" in last
