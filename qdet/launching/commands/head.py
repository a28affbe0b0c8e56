"""`qdet head`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class HeadCommand:
    """Start, show or stop a Ray head on this machine, on loopback and behind a token."""

    action: Positional[Literal["up", "status", "env", "down"]]
    """What to do with it: `env` prints the shell variables that Ray's commands need. Starting twice
    is the same as once; only what was started here is stopped."""
    port: int | None = None
    """Port of the head; by default 6379 or the next free one."""
    dashboard_port: int | None = None
    """Port of the dashboard and of job submission; by default 8265 or the next free one."""
    agent_port: int | None = None
    """Port of the process that starts jobs; by default 52365 or the next free one."""
    cpus: int | None = None
    """CPUs that the head offers to workers; by default all."""

    def run(self, _: Sequence[str]) -> int:
        """Do it, and print the state; `status` and `env` return 1 where no head is up."""
        from qdet.launching.ray_backend import head as local

        if self.action == "up":
            ports = {"port": self.port, "dashboard-port": self.dashboard_port, "agent-port": self.agent_port}
            record = local.up(ports=ports, cpus=self.cpus)
            print(f"a Ray head is up at {record.address}, dashboard {record.dashboard}. For ray's commands:")
            print(local.export_lines(record))
            print('# the dashboard asks for a token: cat "$RAY_AUTH_TOKEN_PATH"')
            return 0
        if self.action == "down":
            print("the Ray head is down" if local.down() else "no Ray head was up")
            return 0
        record = local.running()
        if record is None:
            print("down", file=sys.stderr)
            return 1
        shown = f"up: {record.address}, dashboard {record.dashboard}"
        print(local.export_lines(record) if self.action == "env" else shown)
        return 0
