"""What can happen to a run from the outside: processes die, hang or are told to leave, files rot."""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from qdet.errors import ConfigError


class Victim:
    """A launched run: the process that was started, its workers, its folder of checkpoints."""

    def __init__(self, launcher: psutil.Process, run_folder: Path) -> None:
        self.launcher, self.run_folder = launcher, run_folder

    def workers(self) -> list[psutil.Process]:
        """Return the training processes there are now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in self.launcher.children() if _trains(child)]
        return []

    def clear_away(self) -> None:
        """Kill what is left of the run on this machine: workers whose launcher is gone."""
        for process in psutil.process_iter():
            if _trains(process) and _of(process, self.run_folder.name):
                _kill(process)


Fault = Callable[[Victim, random.Random], str]


def kill_worker(victim: Victim, chance: random.Random) -> str:
    """Kill one worker with signal 9."""
    workers = victim.workers()
    if not workers:
        return "no worker is up"
    worker = chance.choice(workers)
    _kill(worker)
    return f"killed worker {worker.pid}"


def kill_all_workers(victim: Victim, chance: random.Random) -> str:
    """Kill every worker with signal 9."""
    workers = victim.workers()
    for worker in workers:
        _kill(worker)
    return f"killed {len(workers)} workers"


def kill_launcher(victim: Victim, chance: random.Random) -> str:
    """Kill what started the workers, and then the workers: a driver that dies, or a machine."""
    workers = victim.workers()
    _kill(victim.launcher)
    for worker in workers:
        _kill(worker)
    return f"killed the launcher and its {len(workers)} workers"


def terminate(victim: Victim, chance: random.Random) -> str:
    """Ask the run to leave, as schedulers do before they kill."""
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.launcher.terminate()
    return "sent SIGTERM to the launcher"


def freeze_worker(victim: Victim, chance: random.Random) -> str:
    """Stop one worker for good without killing it: the others wait for it until a timeout ends that."""
    workers = victim.workers()
    if not workers:
        return "no worker is up"
    worker = chance.choice(workers)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.suspend()
    return f"froze worker {worker.pid}"


def damage_checkpoint(victim: Victim, chance: random.Random) -> str:
    """Kill the run, and cut or flip a byte of a file of its newest checkpoint."""
    kill_launcher(victim, chance)
    folders = sorted(victim.run_folder.glob("step_*"))
    files = sorted(file for file in folders[-1].iterdir() if file.stat().st_size) if len(folders) > 1 else []
    if not files:
        return "killed everything; there was no second checkpoint to spare"
    file = chance.choice(files)
    return f"killed everything and {_spoil(file, chance)} {folders[-1].name}/{file.name}"


FAULTS: dict[str, Fault] = {
    "worker": kill_worker,
    "workers": kill_all_workers,
    "driver": kill_launcher,
    "term": terminate,
    "freeze": freeze_worker,
    "damage": damage_checkpoint,
}


def named(names: Sequence[str]) -> list[str]:
    """Return the faults of these names, or all; ConfigError for one that there is not."""
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise ConfigError(f"--faults {unknown[0]}: there are {', '.join(FAULTS)}")
    return list(names) or list(FAULTS)


def _spoil(file: Path, chance: random.Random) -> str:
    size = file.stat().st_size
    at = chance.randrange(size)
    if chance.random() < 0.5:
        os.truncate(file, at)
        return f"cut at byte {at}"
    with file.open("r+b") as content:
        content.seek(at)
        old = content.read(1)[0]
        content.seek(at)
        content.write(bytes([old ^ (1 << chance.randrange(8))]))
    return f"flipped a bit of byte {at} of"


def _trains(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "qdet.launching.chaos.job" in process.cmdline()
    return False


def _of(process: psutil.Process, run: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return run in process.cmdline()
    return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
