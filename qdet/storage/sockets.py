"""Ports and paths of the sockets of a Ray that runs on this machine."""

import os
import socket
from collections.abc import Mapping

from qdet.errors import ClusterError, ConfigError

HOST = "127.0.0.1"
_TRIED = 50
"""Ports from the default on of which one must be free."""
_LONGEST = 107
"""Bytes of the path of a Unix socket on Linux; the kernel takes no more."""
_BELOW = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest path that Ray makes in its temporary folder."""


def choose_ports(asked: Mapping[str, int | None], defaults: Mapping[str, int]) -> dict[str, int]:
    """Return a free port for every flag.

    Args:
        asked: Fixed ports by flag name; of None the next free one from the default on.
        defaults: All flags with their defaults.

    Raises:
        ClusterError: A port that was asked for, or every one that may be taken, is in use.
    """
    return {flag: _choose_port(flag, asked.get(flag), default) for flag, default in defaults.items()}


def _choose_port(flag: str, asked: int | None, default: int) -> int:
    if asked is not None:
        if not is_free(asked):
            raise ClusterError(
                f"--{flag} {asked}: something else listens on {HOST}:{asked}; choose another port"
            )
        return asked
    port = next((p for p in range(default, default + _TRIED) if is_free(p)), None)
    if port is None:
        raise ClusterError(f"--{flag}: ports {default} to {default + _TRIED - 1} are all taken")
    if port != default:
        print(f"port {default} is taken, using --{flag} {port}", flush=True)
    return port


def is_free(port: int) -> bool:
    """Whether nothing listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def any_free_port() -> int:
    """Return a port of this machine at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def check_socket_paths(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where Ray's temporary folder is too deep for the sockets that it makes there."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if environment.get(name)), None)
    folder = environment[name] if name else "/tmp"
    size = len(os.fsencode(folder.rstrip("/") + _BELOW))
    if size > _LONGEST:
        raise ConfigError(
            f"{name}={folder}: Ray makes sockets in this folder, with paths of {size} bytes, and the system "
            f"takes {_LONGEST}; set RAY_TMPDIR to a folder with a path of at most "
            f"{_LONGEST - len(_BELOW)}, such as RAY_TMPDIR=/tmp"
        )
