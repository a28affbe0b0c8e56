"""Faults to inject into a run: processes are killed, frozen or sent SIGTERM, files are corrupted."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from qdet.errors import ConfigError
from qdet.launching.chaos.flips import KINDS, request_flip
from qdet.storage import Folder
from qdet.storage.lease import Terms


class Victim:
    """A run under test: its launcher, its workers, its folder of checkpoints."""

    def __init__(
        self,
        launcher: psutil.Process,
        run_folder: Path,
        start_another: Callable[[], "subprocess.Popen[str]"],
    ) -> None:
        self.launcher, self.run_folder, self.start_another = launcher, run_folder, start_another
        self.paused: list[psutil.Process] = []
        """Its processes, where they are suspended so that another launcher takes over."""
        self.problems: list[str] = []
        """What went wrong while a fault was injected."""

    @property
    def flips(self) -> Path:
        """File that asks its workers for a flipped bit."""
        return self.run_folder.parent.parent / f"{self.run_folder.name}.flip.json"

    def workers(self) -> list[psutil.Process]:
        """Return the training processes alive now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in self.launcher.children() if _is_worker(child)]
        return []

    def kill_leftovers(self, spared: Sequence[psutil.Process] = ()) -> None:
        """Kill workers of the run on this machine whose launcher is gone, but none that is `spared`."""
        for process in psutil.process_iter():
            ours = _is_worker(process) and self.run_folder.name in _command_line(process)
            if ours and process not in spared:
                _kill(process)

    def kill(self) -> None:
        """Kill the launcher and its workers."""
        workers = self.workers()
        for process in (self.launcher, *workers):
            _kill(process)

    def wake(self) -> None:
        """Let the suspended processes go on, wait until its workers have ended, and kill the launcher.

        torchrun would start workers again and again, all refused as long as the other launcher is there.
        """
        for process in self.paused:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        _, alive = psutil.wait_procs(self.paused[1:], timeout=LEAVING)
        if alive:
            self.problems.append(f"{len(alive)} workers that had lost the run did not end in {LEAVING:.0f} s")
        self.kill()


LEAVING = 120.0
"""Seconds that processes have to end once they were woken up."""
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


def start_second_driver(victim: Victim, rng: random.Random) -> str:
    """Start the same run a second time, which must be refused while the first is there."""
    terms = Terms(Folder.open(victim.run_folder))
    before, second = terms.view().number, victim.start_another()
    while second.poll() is None and victim.launcher.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    if second.poll() is None:  # the first has ended: the second may have the run
        Victim(psutil.Process(second.pid), victim.run_folder, victim.start_another).kill()
        second.wait()
        return "started a second driver, which outlived the first"
    if second.returncode == 0 and terms.view().number == before:  # else the first had let go in between
        victim.problems.append("a second driver was not refused")
    return f"started a second driver, which ended with exit code {second.returncode}"


def pause_driver(victim: Victim, rng: random.Random) -> str:
    """Suspend the launcher and all workers, as when a machine sleeps: another one takes over meanwhile."""
    victim.paused = [victim.launcher, *victim.workers()]
    for process in victim.paused:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    return f"paused the launcher and its {len(victim.paused) - 1} workers"


def damage_checkpoint(victim: Victim, rng: random.Random) -> str:
    """Kill the run, and truncate a file of its newest checkpoint or flip a bit of it."""
    kill_launcher(victim, rng)
    folders = sorted(victim.run_folder.glob("step_*"))
    files = sorted(file for file in folders[-1].iterdir() if file.stat().st_size) if len(folders) > 1 else []
    if not files:
        return "killed everything; there was no second checkpoint to spare"
    file = rng.choice(files)
    return f"killed everything and {_corrupt(file, rng)} {folders[-1].name}/{file.name}"


def flip_bit(victim: Victim, rng: random.Random) -> str:
    """Have a bit flip in a worker, in the next pass whose gradient is computed twice."""
    kind = rng.choice(KINDS)
    request_flip(victim.flips, kind)
    return f"asked for a flipped bit in the {kind} of the next checked pass"


FAULTS: dict[str, Fault] = {
    "worker": kill_worker,
    "workers": kill_all_workers,
    "driver": kill_launcher,
    "term": terminate,
    "freeze": freeze_worker,
    "damage": damage_checkpoint,
    "second": start_second_driver,
    "pause": pause_driver,
    "flip": flip_bit,
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
