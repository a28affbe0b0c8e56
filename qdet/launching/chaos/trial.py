"""One run of the job under torchrun, with faults, relaunched until it finishes."""

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
from qdet.launching.chaos.copies import COPIES
from qdet.launching.chaos.faults import FAULTS
from qdet.launching.chaos.flips import REQUESTS
from qdet.launching.chaos.lies import LIES, SCHEME
from qdet.launching.chaos.run_files import RunFiles
from qdet.launching.chaos.victim import Victim
from qdet.storage.lease.hold import LASTS

LEASE = 10.0
"""Seconds without a renewal after which the lease of a paused driver ends."""
LAUNCHES = 100
"""Launches after which a run counts as never finishing."""
_STEP = re.compile(r"^\s*(?:\[\w+\]:)?step (\d+)/\d+")


@dataclass(frozen=True)
class PlannedFault:
    """A fault and when to inject it: `delay` seconds after `step` is printed; step 0 means after launch."""

    step: int
    delay: float
    fault: str


@dataclass
class Event:
    """One injected fault, and how the run recovered."""

    fault: str
    what: str
    """Description of what was done."""
    step: int
    """Last step printed before it."""
    at: float
    """Seconds since the first launch."""
    recovery: float | None = None
    """Seconds until new workers finished a step; None if another fault or the end came first."""


class Trial(RunFiles):
    """A run of the job on the shards in `folder`; its output goes to `NAME.log` there."""

    def __init__(self, name: str, folder: Path, *, workers: int, flags: Sequence[str] = ()) -> None:
        super().__init__(name, folder)
        self.workers, self.flags = workers, tuple(flags)
        self.events: list[Event] = []
        self.startup: float | None = None
        """Seconds from the first launch to the first step."""
        self.seconds = 0.0
        self.problems: list[str] = []
        """What went wrong with drivers that had lost the run, or were not to have it."""
        self._step = 0
        self._stepped = False  # in the current launch
        self._lying = False
        self._paused: list[Victim] = []
        self._workers_at_fault: set[int] = set()
        self._workers_replaced = False

    @property
    def store(self) -> str:
        """Where its checkpoints are; a run whose store lies reaches it as one behind a URL."""
        return f"{SCHEME}://{self.folder / 'store'}" if self._lying else "store"

    def run(self, plan: Sequence[PlannedFault], rng: random.Random) -> None:
        """Run to the end, relaunching after faults; fills `events`, `startup` and `seconds`.

        Args:
            plan: Faults in order; each waits for the one before it.
            rng: Draws the worker, file or byte to hit.

        Raises:
            TrainingError: The run fails without a fault, or never finishes.
        """
        self._began = time.monotonic()
        waiting, code = list(plan), -1
        self._lying = any(planned.fault == "lie" for planned in plan)
        with self.log.open("w") as log:
            try:
                code = self._relaunch(log, waiting, rng)
            finally:
                for victim in self._paused:
                    victim.kill()
        if code == 0:
            return
        raise TrainingError(f"{self.name} did not finish (exit code {code}); see {self.log}")

    def _relaunch(self, log: TextIO, waiting: list[PlannedFault], rng: random.Random) -> int:
        """Launch until the run is finished, or fails without a fault; return the last exit code."""
        code = -1
        for _ in range(LAUNCHES):
            faults_before = len(self.events)
            code = self._launch(log, waiting, rng)
            if code == 0:
                self.seconds = time.monotonic() - self._began
            if code == 0 or (len(self.events) == faults_before and not self._is_recovering()):
                break
        return code

    def _launch(self, log: TextIO, waiting: list[PlannedFault], rng: random.Random) -> int:
        process = self._start(log)
        victim = Victim(psutil.Process(process.pid), self.run_folder, lambda: self._start(log, second=True))
        reader = threading.Thread(target=self._read, args=(process, log, victim), daemon=True)
        reader.start()
        self._stepped, since = False, time.monotonic()
        while process.poll() is None and not victim.paused:
            if self._stepped:
                self._wake()
            if waiting and self._step < waiting[0].step:
                since = time.monotonic()
            elif waiting and time.monotonic() - since >= waiting[0].delay:
                self._inject(victim, waiting.pop(0).fault, rng)
                since = time.monotonic()
            workers = {worker.pid for worker in victim.workers()}
            self._workers_replaced = self._workers_replaced or (
                bool(workers) and not workers & self._workers_at_fault
            )
            time.sleep(0.02)
        self.problems += victim.problems
        if victim.paused:
            self._paused.append(victim)
            return -1
        victim.kill_leftovers(spared=[process for paused in self._paused for process in paused.paused])
        reader.join(timeout=60)
        return -1 if victim.reopened else process.returncode

    def _start(self, log: TextIO, *, second: bool = False) -> "subprocess.Popen[str]":
        """Start a launcher; what a second one says goes to the log alone."""
        return subprocess.Popen(
            self._command(restarts=0 if second else 100), cwd=self.folder, env=self._environment(),
            stdout=log if second else subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def _wake(self) -> None:
        """Wake up the drivers that this launch has taken over from: they must end, and touch nothing."""
        while self._paused:
            victim = self._paused.pop()
            victim.wake()
            self.problems += victim.problems

    def _inject(self, victim: Victim, fault: str, rng: random.Random) -> None:
        self._workers_at_fault = {worker.pid for worker in victim.workers()}
        self._workers_replaced = False
        before, at = self._step, time.monotonic() - self._began
        self.events.append(Event(fault, FAULTS[fault](victim, rng), before, at))

    def _is_recovering(self) -> bool:
        return bool(self.events) and self.events[-1].recovery is None

    def _read(self, process: "subprocess.Popen[str]", log: TextIO, victim: Victim) -> None:
        for line in process.stdout or ():
            if not log.closed:
                log.write(line)
                log.flush()
            if not victim.paused and (found := _STEP.search(line)):
                self._record_step(int(found[1]))

    def _record_step(self, step: int) -> None:
        now = time.monotonic() - self._began
        self._step, self._stepped = step, True
        if self.startup is None:
            self.startup = now
        if self._workers_replaced and self._is_recovering():
            self.events[-1].recovery = now - self.events[-1].at

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "QDET_ROOT": str(self.folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "1",
            LASTS: f"{LEASE:g}",
            REQUESTS: str(self.flips.file),
            LIES: str(self.lies.file),
            COPIES: "1",
        }

    def _command(self, restarts: int) -> list[str]:
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(self.workers)),
            *("--max-restarts", str(restarts), "--monitor-interval", "0.2", "--rdzv-id", self.name),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
            *("-m", "qdet.launching.chaos.job", "--store.path", self.store, "--store.run", self.name),
            *("--store.resume", "auto", *self.flags),
        ]
