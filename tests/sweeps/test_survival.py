"""A sweep on a real Ray survives kills: the same command again, until it is done."""

import json
import os
import signal
import time
from pathlib import Path

import psutil

from qdet.launching.ray_backend.sweeping.coordinator import NAME
from tests.launch.conftest import *  # noqa: F403  (the fixtures of tests that start Ray)
from tests.launch.conftest import Nodes
from tests.support.cluster_marks import on_a_cluster

pytestmark = on_a_cluster(timeout=1200)
EPOCHS, TRIALS = 4, 4
FLAGS = ("--sweep", "--store.run", "night", "--sweep.trials", str(TRIALS), "--sweep.scheduler", "none")
SMALL = ("--train.workers", "1", "--train.steps", "24", "--train.checkpoint-every", "3")  # 6 steps an epoch


def _trials(project: Path) -> list[dict]:
    return [
        json.loads(file.read_text()) for file in sorted((project / "outputs/night/trials").glob("*.json"))
    ]


def _reports(project: Path) -> int:
    return sum(len(trial["reports"]) for trial in _trials(project))


def _wait_for_reports(job, project: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while _reports(project) < count:
        assert job.process.poll() is None, job.text
        assert time.monotonic() < deadline, job.text
        time.sleep(0.2)


def _processes(job, title: str) -> list[psutil.Process]:
    children = psutil.Process(job.process.pid).children(recursive=True)
    return [one for one in children if title in " ".join(one.cmdline())]


def _mlflow(project: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def _without_the_failing_choice(project: Path) -> None:
    script = project / "jobs" / "tiny_job.py"
    script.write_text(
        script.read_text().replace('Choice((1e-3, 1e-4, float("inf")))', "Choice((1e-3, 1e-4))")
    )


def _assert_each_epoch_once(project: Path) -> None:
    """Every trial has finished with an evaluation per epoch, and is one run in MLflow below the sweep's."""
    for trial in _trials(project):
        assert trial["state"] == "finished"
        assert [entry["epoch"] for entry in trial["reports"]] == [1, 2, 3, 4]
    runs = _mlflow(project)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert (len(runs), len(children)) == (1 + TRIALS, TRIALS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if "qdet.cause" in run.data.tags]
    assert sorted(run.info.run_name.split()[0] for run in children) == ["t01", "t02", "t03", "t04"]


def test_worker_driver_and_sweep_are_killed_in_turn(project: Path, start):
    _without_the_failing_choice(project)
    first = start(*FLAGS, *SMALL)
    _wait_for_reports(first, project, 1)
    first.wait_for("rank 0 is process")
    first.workers()[0].send_signal(signal.SIGKILL)
    _wait_for_reports(first, project, 5)
    drivers = _processes(first, "ImplicitFunc")
    assert drivers, [one.cmdline() for one in psutil.Process(first.process.pid).children(recursive=True)]
    drivers[0].send_signal(signal.SIGKILL)
    first.wait_for("its driver was lost; it resumes")
    _wait_for_reports(first, project, 6)
    os.kill(first.process.pid, signal.SIGKILL)
    first.end()
    deadline = time.monotonic() + 30
    while any(run.info.status == "RUNNING" for run in _mlflow(project)):
        assert time.monotonic() < deadline
        time.sleep(1.0)
    before = _reports(project)
    second = start(*FLAGS, *SMALL)
    assert second.end(600) == 0
    assert f"{before // EPOCHS} have ended" in second.text

    _assert_each_epoch_once(project)
    third = start(*FLAGS, *SMALL)  # it is over: only the table, and no Ray
    assert third.end(120) == 0
    assert third.text.count("finished") == TRIALS
    other = start("--sweep", "--store.run", "night", *SMALL)
    assert other.end(120) == 2
    assert "--sweep.scheduler was none, it is asha" in other.text


def test_a_node_that_holds_a_trials_driver_is_lost(project: Path, start):
    _without_the_failing_choice(project)
    cluster = Nodes(head_flags=("--memory=100000000",))  # no driver fits there
    try:
        for host in (3, 4):
            cluster.add(host, flags=("--memory=1500000000",))  # and one each here
        job = start(*FLAGS, *SMALL, "--sweep.concurrent", "2", "--ray-address", cluster.address)
        _wait_for_reports(job, project, 2)
        holder, alive = cluster.node_of(NAME), cluster.alive()
        lost = next(
            host for host in (3, 4) if alive[host] != holder
        )  # the sweep itself is bound to the holder
        cluster.kill(lost)
        job.wait_for("its driver was lost; it resumes")
        cluster.add(5, flags=("--memory=1500000000",))
        assert job.end(600) == 0
        assert cluster.node_of(NAME) == holder is not None
    finally:
        cluster.stop()
    assert f"node 127.0.0.{lost} was lost" in job.text
    assert "resumes after epoch" not in job.text  # that is a new start of the sweep
    assert "Traceback" not in job.text
    _assert_each_epoch_once(project)


def test_a_trial_that_is_stopped_early_is_finished_in_mlflow_at_once(project: Path, start):
    script = project / "jobs" / "tiny_job.py"
    script.write_text(
        script.read_text().replace('Choice((1e-3, 1e-4, float("inf")))', "Each((1e-3, 0.0001))")
    )
    script.write_text(script.read_text().replace("import Choice", "import Each"))
    flags = ("--sweep", "--store.run", "night", "--sweep.trials", "3", *SMALL)
    job = start(*flags)
    stopped = job.wait_for(r"trial (t\d\d) stopped early", seconds=600).group(1)
    time.sleep(10)
    (run,) = [run for run in _mlflow(project) if run.data.tags.get("qdet.trial") == stopped]
    assert run.info.status == "FINISHED"
    assert run.data.tags["qdet.ended"] == "stopped early"
    assert "qdet.cause" not in run.data.tags
    assert job.end(900) == 0
    (run,) = [run for run in _mlflow(project) if run.data.tags.get("qdet.trial") == stopped]
    assert (run.info.status, "qdet.cause" in run.data.tags) == ("FINISHED", False)


def test_a_terminated_sweep_joins_no_other_cluster(project: Path, start, tmp_path_factory):
    """While another user's head is up; the sweep has a private Ray, and SIGTERM ends it and nothing else."""
    from qdet.launching import paths
    from qdet.launching.ray_backend import head

    other = tmp_path_factory.mktemp("other")
    os.environ[paths.ROOT] = str(other)
    try:
        up = head.up(ports=dict.fromkeys(head.PORTS), cpus=1)
        del os.environ[paths.ROOT]
        job = start(*FLAGS, *SMALL)
        _wait_for_reports(job, project, 1)
        job.process.send_signal(signal.SIGTERM)
        assert job.end(60) != 0
        assert up.address not in job.text
        assert "the same command resumes it with --store.run night" in job.text
        assert psutil.pid_exists(up.pid)
    finally:
        os.environ[paths.ROOT] = str(other)
        head.down()
        del os.environ[paths.ROOT]
