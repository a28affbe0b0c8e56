"""Ports of a head on loopback: those that were asked for, or the next free ones."""

import socket
from collections.abc import Mapping

from qdet.errors import ClusterError

HOST = "127.0.0.1"
PORTS = {"port": 6379, "dashboard-port": 8265, "agent-port": 52365}
"""The usual port of every flag."""


def choose_ports(asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return a port for every flag: the one that was asked for, or the next free one.

    Raises:
        ClusterError: A port that was asked for is taken, or 50 in a row are.
    """
    chosen: dict[str, int] = {}
    for flag, default in PORTS.items():
        port = asked.get(flag)
        if port is not None and not _free(port):
            raise ClusterError(
                f"--{flag} {port}: something else listens on {HOST}:{port}; choose another port"
            )
        if port is None:
            port = next((p for p in range(default, default + 50) if _free(p)), None)
        if port is None:
            raise ClusterError(f"--{flag}: ports {default} to {default + 49} are all taken")
        if port != (asked.get(flag) or default):
            print(f"port {default} is taken, using --{flag} {port}", flush=True)
        chosen[flag] = port
    return chosen


def taken_meanwhile(chosen: Mapping[str, int], asked: Mapping[str, int | None]) -> bool:
    """Whether another program took a port, which was free, before the head did."""
    return any(asked.get(flag) is None and not _free(port) for flag, port in chosen.items())


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
