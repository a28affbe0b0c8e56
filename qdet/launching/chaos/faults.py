"""Faults to inject into a run: on its processes, its files, its store and its data."""

import contextlib
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from qdet.errors import ConfigError
from qdet.launching.chaos import flips, lies
from qdet.launching.chaos.copies import other_copy, watch_refusal
from qdet.launching.chaos.victim import Victim, kill_process
from qdet.storage import Folder
from qdet.storage.lease import Terms

MOST_LIES = 6
"""Lies that a store is asked for at once."""
REFUSING = 180.0
"""Seconds that new workers have to refuse data that differ."""
DRAINED = 1.0
"""Seconds until what killed workers had printed is in the log; new ones take longer to start."""
Fault = Callable[[Victim, random.Random], str]
"""Injects a fault, drawing what to hit from the generator, and returns what it did."""


def kill_worker(victim: Victim, rng: random.Random) -> str:
    """Send SIGKILL to one worker."""
    workers = victim.workers()
    if not workers:
        return "no worker is up"
    worker = rng.choice(workers)
    kill_process(worker)
    return f"killed worker {worker.pid}"


def kill_all_workers(victim: Victim, rng: random.Random) -> str:
    """Send SIGKILL to every worker."""
    workers = victim.workers()
    for worker in workers:
        kill_process(worker)
    return f"killed {len(workers)} workers"


def kill_launcher(victim: Victim, rng: random.Random) -> str:
    """Kill the launcher and then its workers, as when the driver or the machine dies."""
    workers = victim.workers()
    kill_process(victim.launcher)
    for worker in workers:
        kill_process(worker)
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
    """Start the same run a second time, which must be refused while the first is there.

    Once the first has ended, a second that is still waiting for it, or has opened its run again, is killed.
    """
    terms = Terms(Folder.open(victim.run_folder))
    before, second = terms.view().number, victim.start_another()
    while second.poll() is None and victim.launcher.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    if second.poll() is None:  # the first has ended: the second may have the run
        Victim(psutil.Process(second.pid), victim.run_folder, victim.start_another).kill()
        second.wait()
        if terms.view().number == before:
            return "started a second driver, which outlived the first"
        victim.reopened = True
        return "started a second driver, and killed it once it had opened the finished run again"
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
    kind = rng.choice(flips.KINDS)
    victim.flips.put(kind)
    return f"asked for a flipped bit in the {kind} of the next checked pass"


def lie(victim: Victim, rng: random.Random) -> str:
    """Have the store lie some times, by even chances to a run that is killed and looks for a checkpoint."""
    kind, times = rng.choice(lies.KINDS), rng.randint(1, MOST_LIES)
    victim.lies.put(kind, times)
    asked = f"asked the store for {kind}, {times} times"
    return f"{asked}, and {kill_launcher(victim, rng)}" if rng.random() < 0.5 else asked


def mismatch_data(victim: Victim, rng: random.Random) -> str:
    """Kill all workers; until they have refused it, every second one finds another copy of the data."""
    if len(victim.workers()) < 2:
        return "no two workers are up, to have different copies of the data"
    killed = kill_all_workers(victim, rng)
    with other_copy(victim.folder):
        time.sleep(DRAINED)
        start = victim.log.stat().st_size
        found = watch_refusal(victim.log, start, victim.is_up, REFUSING)
    victim.problems += found
    return f"{killed}, and gave one another copy of the data until it was refused"


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
    "lie": lie,
    "mismatch": mismatch_data,
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
