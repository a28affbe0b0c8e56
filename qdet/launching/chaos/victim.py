"""The run that is broken: its processes, and its files beside them."""

import contextlib
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from qdet.launching.chaos.run_files import RunFiles

LEAVING = 120.0
"""Seconds that processes have to end once they were woken up."""


class Victim(RunFiles):
    """A run under test: its launcher, its workers, its folder of checkpoints."""

    def __init__(
        self,
        launcher: psutil.Process,
        run_folder: Path,
        start_another: Callable[[], "subprocess.Popen[str]"],
    ) -> None:
        super().__init__(run_folder.name, run_folder.parent.parent)
        self.launcher, self.start_another = launcher, start_another
        self.paused: list[psutil.Process] = []
        """Its processes, where they are suspended so that another launcher takes over."""
        self.problems: list[str] = []
        """What went wrong while a fault was injected."""
        self.reopened = False
        """Whether another driver opened the run after its launcher had ended, and was killed."""

    def is_up(self) -> bool:
        """Whether the launcher runs."""
        return self.launcher.is_running() and self.launcher.status() != psutil.STATUS_ZOMBIE

    def workers(self) -> list[psutil.Process]:
        """Return the training processes alive now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in self.launcher.children() if is_worker(child)]
        return []

    def kill_leftovers(self, spared: Sequence[psutil.Process] = ()) -> None:
        """Kill workers of the run whose launcher is gone, but none that is `spared`, nor of another chaos."""
        for process in psutil.process_iter():
            named = is_worker(process) and self.name in command_line(process)
            if named and works_in(process, self.folder) and process not in spared:
                kill_process(process)

    def kill(self) -> None:
        """Kill the launcher and its workers."""
        workers = self.workers()
        for process in (self.launcher, *workers):
            kill_process(process)

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


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a worker of the job that chaos breaks."""
    return "qdet.launching.chaos.job" in command_line(process)


def works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether a process of this user was started in `folder`."""
    with contextlib.suppress(psutil.Error, OSError):
        return Path(process.cwd()).samefile(folder)
    return False


def command_line(process: psutil.Process) -> list[str]:
    """Return the words of a process's command line; none if it is gone or another user's."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def kill_process(process: psutil.Process) -> None:
    """Send SIGKILL to a process, if it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
