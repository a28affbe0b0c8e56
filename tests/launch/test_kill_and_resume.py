"""SIGKILL one worker, then all workers, then the driver: the run ends bitwise as an undisturbed one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.cluster_marks import on_a_cluster
from tests.support.mlflow_runs import find_run, ledgers, loss_curve
from tests.support.ranks import assert_same, checkpoint

pytestmark = on_a_cluster()

STEPS = 50
FLAGS = (
    *("--train.steps", str(STEPS), "--train.checkpoint-every", "10", "--train.log-every", "1"),
    *("--train.max-failures", "3", "--optim.ema-decay", "0.9"),
    # Large images, so that a step takes longer than its line takes to arrive.
    *("--data.augment.sizes", "192", "--data.augment.max-size", "192"),
)


def kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("zero", [0, 1, 2, pytest.param(3, marks=pytest.mark.ci_slow)])
def test_killed_workers_and_drivers_change_no_weight(project: Path, start, zero: int):
    flags = (*FLAGS, "--train.zero", str(zero))
    calm = start(*flags, "--store.run", "calm")
    assert calm.end() == 0
    startup = calm.when(r"step 1/50") - calm.started

    job = start(*flags, "--store.run", "broken")
    recoveries = [_after_killing(job, at, alone) for at, alone in ((13, True), (23, False))]
    job.wait_for(r"step 33/50")
    os.kill(job.process.pid, signal.SIGKILL)
    assert job.end() == -signal.SIGKILL
    _wait_until_killed(project)

    again = start(*flags, "--store.run", "broken", "--store.resume", "auto")
    assert again.end() == 0
    assert re.search(r"resuming from step [234]0 of 50", again.text)
    print(f"start-up {startup:.0f} s, recoveries {', '.join(f'{seconds:.0f} s' for seconds in recoveries)}")

    store = project / "outputs"
    assert_same(checkpoint(store, "broken", STEPS), checkpoint(store, "calm", STEPS))
    assert set(ledgers(project, "calm") + ledgers(project, "broken")) == {(0, 0)}
    assert loss_curve(project, "broken", STEPS) == loss_curve(project, "calm", STEPS)


def _after_killing(job, step: int, alone: bool) -> float:
    """Kill one worker or all after a step; return the seconds until the next step."""
    job.wait_for(rf"step {step}/{STEPS}")
    before, victims = len(job.lines), job.workers()
    assert len(victims) == 2
    killed = time.monotonic()
    kill(victims[1:] if alone else victims)
    job.wait_for(r"resuming from step", after=before)
    resumed = len(job.lines)
    job.wait_for(rf"step \d+/{STEPS}", after=resumed)
    return job.when(rf"step \d+/{STEPS}", after=job.when(r"resuming from step", after=killed)) - killed


def _wait_until_killed(project: Path) -> None:
    """Wait until the witness process marks the dead driver's run as killed in MLflow."""
    deadline = time.monotonic() + 90
    while find_run(project, "broken")[1].info.status == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert find_run(project, "broken")[1].info.status == "KILLED"


def test_a_run_with_too_many_failures_fails_with_its_cause(project: Path, start):
    job = start(*FLAGS, "--train.max-failures", "0", "--store.run", "mortal")
    job.wait_for(r"step 3/50")
    kill(job.workers()[1:])
    assert job.end() == 1
    run = find_run(project, "mortal")[1]
    assert run.info.status == "FAILED"
    assert "training failed" in run.data.tags["qdet.cause"]
    last = job.text.strip().splitlines()[-1]
    # Ray may notice first that worker 0 lost its connection.
    assert re.match(r"TrainingError: training failed in worker (1: |0: .* closed by peer)", last)
    assert "--store.resume mortal resumes from its last checkpoint; --train.max-failures, 0 here" in last


def test_sigterm_saves_a_checkpoint_and_the_run_resumes_from_it(project: Path, start):
    flags = (*FLAGS, "--train.checkpoint-every", "1000", "--store.run", "asked")
    job = start(*flags)
    job.wait_for(r"step 7/50")
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 128 + signal.SIGTERM
    stopped = int(job.wait_for(r"stopped after step (\d+) of 50")[1])
    assert 7 <= stopped < STEPS
    folders = [folder.name for folder in (project / "outputs" / "asked").glob("step_*")]
    assert folders == [f"step_{stopped:06d}"]
    before = find_run(project, "asked")[1]
    assert before.info.status == "KILLED"

    unknown = subprocess.run(
        [sys.executable, "jobs/tiny_job.py", "--store.resume", "askedx"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert unknown.returncode == 2
    assert "Did you mean asked?" in unknown.stderr
    again = start(*flags, "--store.resume", "asked")
    assert again.end() == 0
    assert f"resuming from step {stopped} of 50" in again.text
    assert json.loads((project / "result.json").read_text())["mlflow_run_id"] == before.info.run_id
    loss_curve(project, "asked", STEPS)
