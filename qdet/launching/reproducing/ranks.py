"""The ranks of a reproduction: processes of this machine that find each other on loopback."""

import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from qdet.allocator import ONE_KEPT_HEAP
from qdet.config import flatten
from qdet.errors import ConfigError, TrainingError
from qdet.job import Job
from qdet.launching.exit_status import Exit
from qdet.storage.sockets import HOST, any_free_port
from qdet.training.joining.rendezvous import SECRET

RUN = "again"
"""Name of the run that is trained."""
LEAVING = 10.0
"""Seconds that the other ranks have to end once one has failed."""
_POLL = 0.1


def train_on_ranks(job: Job, steps: int, scratch: Path) -> None:
    """Train the first steps of `job` in as many processes as it has workers; what they leave is in `scratch`.

    Raises:
        ConfigError: A rank found that the job cannot train here.
        TrainingError: A rank failed; the message is its last line.
    """
    plan = scratch / "plan.json"
    plan.write_text(json.dumps({"job": flatten(job), "steps": steps, "run": RUN}, default=str))
    size = int(job.train.workers)
    meeting = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(any_free_port()),
        SECRET: secrets.token_hex(32),
        "OMP_NUM_THREADS": str(job.train.cpus_per_worker),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(size):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} | meeting
            ranks.append(_start(plan, scratch / f"rank_{rank}.log", place if size > 1 else {}))
        _wait(ranks, scratch)
    finally:
        for process in ranks:
            _end(process)


def _start(plan: Path, log: Path, place: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a rank; what it says on stderr goes to `log`."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    with log.open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "qdet.launching.reproducing.worker", str(plan)],
            stderr=errors,
            env=clean | ONE_KEPT_HEAP | place,
        )


def _wait(ranks: "list[subprocess.Popen[bytes]]", scratch: Path) -> None:
    """Wait until all have ended well; raise the error of the first that has not."""
    while any(process.poll() is None for process in ranks):
        if any(process.poll() for process in ranks):
            break
        time.sleep(_POLL)
    failed = [(process.returncode, rank) for rank, process in enumerate(ranks) if process.poll()]
    if not failed:
        return
    # A rank that says what is wrong with the job explains the others, which only lost the connection to it.
    code, rank = min(failed, key=lambda one: (one[0] != Exit.REFUSED, one[1]))
    lines = (scratch / f"rank_{rank}.log").read_text(errors="replace").strip().splitlines()
    said = lines[-1] if lines else f"it ended with exit code {code}"
    if code == Exit.REFUSED:
        raise ConfigError(said.partition(": ")[2] or said)
    raise TrainingError(f"worker {rank} of the reproduction failed: {said}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a rank that still runs, at last with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVING)
    if process.poll() is None:
        process.kill()
        process.wait()
