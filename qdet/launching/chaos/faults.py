"""Faults to inject into a run: processes are killed, frozen or sent SIGTERM, files are corrupted."""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from qdet.errors import ConfigError


class Victim:
    """A run under test: its launcher, its workers, its folder of checkpoints."""

    def __init__(self, launcher: psutil.Process, run_folder: Path) -> None:
        self.launcher, self.run_folder = launcher, run_folder

    def workers(self) -> list[psutil.Process]:
        """Return the training processes alive now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in self.launcher.children() if _is_worker(child)]
        return []

    def kill_leftovers(self) -> None:
        """Kill workers of the run on this machine whose launcher is gone."""
        for process in psutil.process_iter():
            if _is_worker(process) and self.run_folder.name in _command_line(process):
                _kill(process)


Fault = Callable[[Victim, random.Random], str]
"""Injects a fault, drawing what to hit from the generator, and returns what it did."""


def kill_worker(victim: Victim, rng: random.Random) -> str:
    """Send SIGKILL to one worker."""
    workers = victim.workers()
    if not workers:
        return "no worker is up"
    worker = rng.choice(workers)
    _kill(worker)
    return f"killed worker {worker.pid}"


def kill_all_workers(victim: Victim, rng: random.Random) -> str:
    """Send SIGKILL to every worker."""
    workers = victim.workers()
    for worker in workers:
        _kill(worker)
    return f"killed {len(workers)} workers"


def kill_launcher(victim: Victim, rng: random.Random) -> str:
    """Kill the launcher and then its workers, as when the driver or the machine dies."""
    workers = victim.workers()
    _kill(victim.launcher)
    for worker in workers:
        _kill(worker)
    return f"killed the launcher and its {len(workers)} workers"


def terminate(victim: Victim, rng: random.Random) -> str:
    """Send SIGTERM to the launcher, as schedulers do before they kill."""
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.launcher.terminate()
    return "sent SIGTERM to the launcher"


def freeze_worker(victim: Victim, rng: random.Random) -> str:
    """Suspend one worker for good: the others wait for it until a timeout."""
    workers = victim.workers()
    if not workers:
        return "no worker is up"
    worker = rng.choice(workers)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.suspend()
    return f"froze worker {worker.pid}"


def damage_checkpoint(victim: Victim, rng: random.Random) -> str:
    """Kill the run, and truncate a file of its newest checkpoint or flip a bit of it."""
    kill_launcher(victim, rng)
    folders = sorted(victim.run_folder.glob("step_*"))
    files = sorted(file for file in folders[-1].iterdir() if file.stat().st_size) if len(folders) > 1 else []
    if not files:
        return "killed everything; there was no second checkpoint to spare"
    file = rng.choice(files)
    return f"killed everything and {_corrupt(file, rng)} {folders[-1].name}/{file.name}"


FAULTS: dict[str, Fault] = {
    "worker": kill_worker,
    "workers": kill_all_workers,
    "driver": kill_launcher,
    "term": terminate,
    "freeze": freeze_worker,
    "damage": damage_checkpoint,
}


def select_faults(names: Sequence[str]) -> list[str]:
    """Return these names of faults, or all names if none are given.

    Raises:
        ConfigError: There is no fault of that name.
    """
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise ConfigError(f"--faults {unknown[0]}: there are {', '.join(FAULTS)}")
    return list(names) or list(FAULTS)


def _corrupt(file: Path, rng: random.Random) -> str:
    size = file.stat().st_size
    at = rng.randrange(size)
    if rng.random() < 0.5:
        os.truncate(file, at)
        return f"cut at byte {at}"
    with file.open("r+b") as content:
        content.seek(at)
        old = content.read(1)[0]
        content.seek(at)
        content.write(bytes([old ^ (1 << rng.randrange(8))]))
    return f"flipped a bit of byte {at} of"


def _is_worker(process: psutil.Process) -> bool:
    return "qdet.launching.chaos.job" in _command_line(process)


def _command_line(process: psutil.Process) -> list[str]:
    """Return the words of a process's command line; none if it is gone or another user's."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
