"""Which process holds a lease, and whether it is seen to be gone from this machine."""

import math
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

SAME = 2.0
"""Largest difference between two readings of one start."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process of some machine, such that no later one is taken for it."""

    host: str
    machine: str
    """Boot and, on Linux, the namespace of process ids: containers of one machine count apart."""
    pid: int
    started: float
    """When the process began, as its machine counts it; see `read_start`."""
    since: str = ""
    """When it asked for the lease: ISO 8601, in UTC."""

    @classmethod
    def here(cls) -> "Owner":
        """Return this process."""
        return cls(
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=read_start(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, content: Any) -> "Owner | None":
        """Return the owner that a claim names; None where it is damaged or of a later version."""
        try:
            found = msgspec.convert(content, cls)
        except ValueError:
            return None
        return found if 0 < found.pid < 2**31 and math.isfinite(found.started) else None

    def as_json(self) -> dict[str, Any]:
        """Return it for a claim."""
        return asdict(self)

    def is_gone(self) -> bool:
        """Whether this machine sees that the process has ended; False for one of any other machine."""
        if (self.host, self.machine) != (platform.node(), _machine()):
            return False
        try:
            other = abs(read_start(self.pid) - self.started) > SAME
            return other or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:  # another user's, say
            return False

    def __str__(self) -> str:
        since = f", since {self.since}" if self.since else ""
        return f"process {self.pid} on {self.host}{since}"


def read_start(pid: int) -> float:
    """Return when a process began: on Linux in ticks since the boot, elsewhere in seconds of Unix time.

    Unix times of one start differ where the clock was set in between.

    Raises:
        psutil.NoSuchProcess: There is no such process.
    """
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return psutil.Process(pid).create_time()


def _machine() -> str:
    try:
        return f"{_BOOT.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:
        return f"booted {psutil.boot_time():.0f}"
