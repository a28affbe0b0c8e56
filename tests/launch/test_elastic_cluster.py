"""A run on nodes that come and go: it shrinks, grows, and learns what it would have learned anyway."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("only_cluster"),
]

STEPS = 60
FLAGS = (
    *("--train.steps", str(STEPS), "--train.batch-size", "16", "--train.log-every", "1"),
    *("--train.checkpoint-every", "5", "--train.keep-checkpoints", "100", "--optim.ema-decay", "0.9"),
    # Big images, so that a step takes long enough for a node to come during it, and a rate at which
    # rounding, which depends on how many workers add up, does not grow.
    *("--data.augment.sizes", "384", "--data.augment.max-size", "384", "--optim.lr", "2.5e-7"),
)


def losses(project: Path, run: str) -> dict[int, list[float]]:
    """Values of the loss at every step, as MLflow has them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    (found,) = [r for r in client.search_runs(experiments) if r.info.run_name == run]
    assert found.info.status == "FINISHED"
    points: dict[int, list[float]] = {}
    for point in client.get_metric_history(found.info.run_id, "train/loss"):
        points.setdefault(point.step, []).append(point.value)
    return points


def undisturbed(project: Path) -> dict[int, list[float]]:
    """Losses of the same job on one process that nothing happens to."""
    command = [sys.executable, "jobs/tiny_job.py", *FLAGS, "--store.run", "undisturbed", "--local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return losses(project, "undisturbed")


def assert_same_run(project: Path, output: str) -> None:
    """The run has one point per step, those of the undisturbed run, and lost no image."""
    found, expected = losses(project, "elastic"), undisturbed(project)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    assert {step: len(values) for step, values in found.items() if len(values) > 1} == {}
    for step, (loss,) in expected.items():
        assert found[step][0] == pytest.approx(loss, rel=1e-6), step
    ledgers = re.findall(r"lost=(\d+) duplicated=(\d+)", output)
    assert len(ledgers) >= STEPS // 3
    assert set(ledgers) == {("0", "0")}


def test_a_run_shrinks_when_a_node_dies_and_grows_when_one_comes(project: Path, nodes, start, monkeypatch):
    monkeypatch.setenv("QDET_GROWTH_CHECK_S", "5")
    nodes.add(3, 4, 5)
    job = start(*FLAGS, "--train.workers", "1:3", "--store.run", "elastic", "--ray-address", nodes.address)
    job.wait_for(r"step 7/60")
    startup = job.when(r"step 1/60") - job.started
    before, killed = len(job.lines), time.monotonic()
    nodes.kill(4)
    job.wait_for(r"going on after step \d+ of 60", after=before)
    job.wait_for(r"step 1[1-9]/60", after=before + 1)  # two workers have written a checkpoint by then
    shrunk = job.when(r"going on after step", after=killed) - killed
    nodes.add(6)
    before, added = len(job.lines), time.monotonic()
    job.wait_for(r"going on after step \d+ of 60", after=before)
    grown = job.when(r"going on after step", after=added) - added
    assert job.end() == 0
    print(f"start-up {startup:.0f} s, on with 2 workers after {shrunk:.0f} s, with 3 after {grown:.0f} s")
    worlds = worlds_of(project / "outputs" / "elastic")
    assert {2, 3} <= set(worlds.values())
    assert_same_run(project, job.text)


def worlds_of(run: Path) -> dict[int, int]:
    """Workers that wrote each checkpoint there is, by step."""
    manifests = [json.loads(file.read_text()) for file in run.glob("step_*/manifest.json")]
    return {manifest["step"]: manifest["world_size"] for manifest in manifests}


def test_a_node_that_is_drained_leaves_a_checkpoint_and_the_run_goes_on(
    project: Path, nodes, start, monkeypatch
):
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    nodes.add(3, 4)
    rare = ("--train.checkpoint-every", "1000")
    job = start(
        *FLAGS, *rare, "--train.workers", "1:2", "--store.run", "elastic", "--ray-address", nodes.address
    )
    job.wait_for(r"step 7/60")
    before = len(job.lines)
    nodes.drain(4, seconds=60)
    drained = time.monotonic()
    while not worlds_of(project / "outputs" / "elastic"):
        assert time.monotonic() < drained + 60, "no checkpoint before the node goes"
        time.sleep(0.2)
    print(f"a checkpoint {time.monotonic() - drained:.0f} s after the notice")
    nodes.kill(4)
    found = job.wait_for(r"going on after step (\d+) of 60", after=before)
    assert int(found[1]) >= 7
    assert job.end() == 0
    assert_same_run(project, job.text)
