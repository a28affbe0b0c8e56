"""One run of the job under torchrun, broken on purpose and started again until it is through."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from qdet.errors import TrainingError
from qdet.launching.chaos.faults import FAULTS, Victim

LAUNCHES = 100
"""Starts after which a run counts as one that never ends."""
_STEP = re.compile(r"^\s*(?:\[\w+\]:)?step (\d+)/\d+")
_LEDGER = re.compile(r"lost=(\d+) duplicated=(\d+)")


@dataclass(frozen=True)
class Planned:
    """When a fault comes: so many seconds after a step was heard of, or for step 0 after a start."""

    step: int
    delay: float
    fault: str


@dataclass
class Event:
    """One fault, and how the run came back."""

    fault: str
    what: str
    """What was done, for people."""
    step: int
    """Last step that was heard of before it."""
    at: float
    """Seconds since the run was started."""
    recovery: float | None = None
    """Seconds until new workers made a step; None where the next fault, or the end, came first."""


class Trial:
    """A run of the job in `folder`, where its shards are; its output goes to `NAME.log` there."""

    def __init__(self, name: str, folder: Path, *, workers: int, flags: Sequence[str] = ()) -> None:
        self.name, self.folder, self.workers, self.flags = name, folder, workers, tuple(flags)
        self.events: list[Event] = []
        self.ledgers: list[tuple[int, int]] = []
        """Images lost and received twice, as every settled epoch says."""
        self.startup: float | None = None
        """Seconds from the first launch to the first step."""
        self.seconds = 0.0
        self._step = 0
        self._known: set[int] = set()
        self._renewed = False

    @property
    def run_folder(self) -> Path:
        """Where its checkpoints are."""
        return self.folder / "store" / self.name

    def run(self, plan: Sequence[Planned], chance: random.Random) -> None:
        """Run to the end, with faults on the way.

        Args:
            plan: What happens when; one fault waits for the one before it.
            chance: Decides which worker, which file, which byte.

        Raises:
            TrainingError: The run fails, or does not come to its end.
        """
        self._began = time.monotonic()
        waiting, code = list(plan), -1
        with (self.folder / f"{self.name}.log").open("w") as log:
            for _ in range(LAUNCHES):
                broken = len(self.events)
                code = self._launch(log, waiting, chance)
                if code == 0:
                    self.seconds = time.monotonic() - self._began
                    return
                if len(self.events) == broken and not self._in_recovery():
                    break
        raise TrainingError(
            f"{self.name} did not come to its end by itself (exit code {code}); "
            f"see {self.folder / self.name}.log"
        )

    def _launch(self, log: TextIO, waiting: list[Planned], chance: random.Random) -> int:
        process = subprocess.Popen(
            self._command(), cwd=self.folder, env=self._environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        reader = threading.Thread(target=self._read, args=(process, log), daemon=True)
        reader.start()
        victim = Victim(psutil.Process(process.pid), self.run_folder)
        since = time.monotonic()
        while process.poll() is None:
            if waiting and self._step < waiting[0].step:
                since = time.monotonic()
            elif waiting and time.monotonic() - since >= waiting[0].delay:
                self._break(victim, waiting.pop(0).fault, chance)
                since = time.monotonic()
            workers = {worker.pid for worker in victim.workers()}
            self._renewed = self._renewed or (bool(workers) and not workers & self._known)
            time.sleep(0.02)
        victim.clear_away()
        reader.join(timeout=60)
        return process.returncode

    def _break(self, victim: Victim, fault: str, chance: random.Random) -> None:
        self._known = {worker.pid for worker in victim.workers()}
        self._renewed = False
        before, at = self._step, time.monotonic() - self._began
        self.events.append(Event(fault, FAULTS[fault](victim, chance), before, at))

    def _in_recovery(self) -> bool:
        return bool(self.events) and self.events[-1].recovery is None

    def _read(self, process: "subprocess.Popen[str]", log: TextIO) -> None:
        for line in process.stdout or ():
            log.write(line)
            if found := _STEP.search(line):
                self._made_step(int(found[1]))
            if found := _LEDGER.search(line):
                self.ledgers.append((int(found[1]), int(found[2])))

    def _made_step(self, step: int) -> None:
        now = time.monotonic() - self._began
        self._step = step
        if self.startup is None:
            self.startup = now
        if self._renewed and self._in_recovery():
            self.events[-1].recovery = now - self.events[-1].at

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "QDET_ROOT": str(self.folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "1",
        }

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(self.workers)),
            *("--max-restarts", "100", "--monitor-interval", "0.2", "--rdzv-id", self.name),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
            *("-m", "qdet.launching.chaos.job", "--store.path", "store", "--store.run", self.name),
            *("--store.resume", "auto", *self.flags),
        ]
