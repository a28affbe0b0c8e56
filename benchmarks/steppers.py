"""Processes that make a step when they are told to, so that variants in processes of their own take turns."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a step took in one process."""

    cpu: float
    """Seconds of CPU time, of all threads."""
    wall: float
    """Seconds."""
    loss: float


class Stepper:
    """A process that makes a step for every line it is sent.

    Args:
        command: Runs `serve`.
        variables: Environment.
        root: Folder to run in.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], root: Path) -> None:
        self._process = subprocess.Popen(
            command, cwd=root, env=dict(variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self) -> Cost:
        """Have a step made."""
        self.begin()
        return self.wait()

    def begin(self) -> None:
        """Have a step begun."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()

    def wait(self) -> Cost:
        """Wait for the end of the step.

        Raises:
            RuntimeError: The process ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("cost "):
                return Cost(*map(float, line.split()[1:]))
        raise RuntimeError("a process cannot make the step; its error is above")

    def peak_mb(self) -> float:
        """Return the most memory that the process has had, in MB (Linux only)."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(step: Callable[[], float]) -> None:
    """Make a `step`, which returns its loss, for every line of standard input."""
    for _ in sys.stdin:
        cost = measure(step)
        print(f"cost {cost.cpu} {cost.wall} {cost.loss}", flush=True)


def measure(step: Callable[[], float]) -> Cost:
    """Make a `step` and return what it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    loss = step()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall, loss)
