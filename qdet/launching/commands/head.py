"""`python -m qdet head`: a Ray head on this machine, up, shown and down."""

import sys
from typing import Literal

from tyro.conf import Positional

from qdet.launching.ray_backend import head as local


def head(
    action: Positional[Literal["up", "status", "env", "down"]],
    *,
    port: int | None = None,
    dashboard_port: int | None = None,
    agent_port: int | None = None,
    cpus: int | None = None,
) -> int:
    """Start, show or stop a Ray head on this machine, on loopback and behind a token.

    Args:
        action: What to do with it: `env` prints the shell variables that Ray's commands need. Starting twice
            is the same as once; only what was started here is stopped.
        port: Port of the head; by default 6379 or the next free one.
        dashboard_port: Port of the dashboard and of job submission; by default 8265 or the next free one.
        agent_port: Port of the process that starts jobs; by default 52365 or the next free one.
        cpus: CPUs that the head offers to workers; by default all.
    """
    if action == "up":
        ports = {"port": port, "dashboard-port": dashboard_port, "agent-port": agent_port}
        record = local.up(ports=ports, cpus=cpus)
        print(f"a Ray head is up at {record.address}, dashboard {record.dashboard}. For ray's commands:")
        print(local.export_lines(record))
        return 0
    if action == "down":
        print("the Ray head is down" if local.down() else "no Ray head was up")
        return 0
    record = local.running()
    if record is None:
        print("down", file=sys.stderr)
        return 1
    print(
        local.export_lines(record)
        if action == "env"
        else f"up: {record.address}, dashboard {record.dashboard}"
    )
    return 0
