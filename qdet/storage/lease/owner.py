"""Which process holds a lease, and whether it is seen to be gone from this machine."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

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
    """Unix time at which the process began, as its machine tells it."""
    since: str = ""
    """When it asked for the lease: ISO 8601, in UTC."""

    @classmethod
    def here(cls) -> "Owner":
        """Return this process."""
        return cls(
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, content: Any) -> "Owner | None":
        """Return the owner that a claim names; None where it is damaged or of a later version."""
        try:
            return cls(**content)
        except TypeError:
            return None

    def as_json(self) -> dict[str, Any]:
        """Return it for a claim."""
        return asdict(self)

    def is_gone(self) -> bool:
        """Whether this machine sees that the process has ended; False for one of any other machine."""
        if (self.host, self.machine) != (platform.node(), _machine()):
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() != self.started or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:  # another user's, say
            return False

    def __str__(self) -> str:
        since = f", since {self.since}" if self.since else ""
        return f"process {self.pid} on {self.host}{since}"


def _machine() -> str:
    try:
        return f"{_BOOT.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:
        return f"booted {psutil.boot_time():.0f}"
