"""Connect to Ray: join the named cluster or one on this machine, or else start a private one.

--ray-address, RAY_ADDRESS    that cluster, or an error within seconds
neither                       the head of `cluster/local.sh up`, then the head that Ray's note in its
                              temporary folder names, if nobody else can have written the note, then a
                              private instance on loopback that ends with this process

Reaching a cluster means running its code: a note is believed only where it is this user's own file, in
folders in which no other user can put another one in its place. Ray makes its folder writable for all, so
that is rare.
"""

import os
import re
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.errors import ClusterError, ConfigError
from qdet.launching.ray_backend import auth, head
from qdet.storage.sockets import any_free_port, check_socket_paths, is_free

_NOTED = re.compile(r"[0-9A-Za-z.-]+:\d{1,5}")
_LONGEST = 300  # bytes of a note that are read


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The cluster that this process has joined."""

    address: str
    private: bool
    """Whether this process started it, so that it ends with this process."""


def connect(address: str | None = None, *, timeout: float = 5.0) -> Connection:
    """Join or start a Ray cluster and return how this process is connected.

    Args:
        address: `host:port` of a cluster's head, or `local` for a private instance; by default RAY_ADDRESS,
            then a head on this machine.
        timeout: Seconds to wait for a named address to accept a connection.

    Raises:
        ClusterError: The cluster does not answer or rejects the token.
        ConfigError: The address is not one that training can use.
    """
    named = address or os.environ.get("RAY_ADDRESS")
    if named in (None, "", "auto"):
        address = _find_local()
        if address is None and named == "auto":
            raise ClusterError(
                "--ray-address auto: no Ray head of yours runs on this machine; start one with "
                "cluster/local.sh up, or name another as --ray-address HOST:PORT"
            )
    else:
        flag = "--ray-address" if address else "RAY_ADDRESS"
        address = None if named == "local" else _check_reachable(str(named), timeout, flag)
    if address is None:
        check_socket_paths(os.environ)
    try:
        return _start_private() if address is None else _join(address)
    except Exception as error:
        where = f"the Ray cluster at {address}" if address else "a local Ray instance"
        raise ClusterError(f"cannot use {where}: {_first_line(error)}") from error


def disconnect() -> None:
    """Disconnect, and shut a private cluster down; Ray prints nothing after this."""
    import ray

    ray.shutdown()


def _join(address: str) -> Connection:
    _ray_init(address=address)
    return Connection(address=address, private=False)


def _start_private() -> Connection:
    os.environ.update(head.LOCAL_SETTINGS)
    auth.require_token()
    for _ in range(head.ATTEMPTS - 1):
        port = any_free_port()
        try:
            return _start_private_at(port)
        except Exception:  # Ray raises anything
            if is_free(port):
                raise
            disconnect()  # another process took the port in the same second
    return _start_private_at(any_free_port())


def _start_private_at(port: int) -> Connection:
    """Start a private instance whose dashboard listens at `port`."""
    # Ray's monitoring of a training queries the dashboard at this address, and without it would query another
    # cluster of this machine, even one that is gone. All processes started here inherit the variable.
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{head.HOST}:{port}"
    context = _ray_init(
        address="local",
        _node_ip_address=head.HOST,
        dashboard_host=head.HOST,
        dashboard_port=port,
        object_store_memory=head.OBJECT_STORE,
    )
    return Connection(address=context.address_info["address"], private=True)


def _ray_init(**settings: Any) -> Any:
    import logging

    import ray

    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    os.environ.pop("RAY_ADDRESS", None)  # it would override `address="local"`
    return ray.init(log_to_driver=True, logging_level=logging.WARNING, **settings)


def _find_local() -> str | None:
    record = head.running()
    if record is not None:
        os.environ.update(record.environment)
        return record.address
    address = read_own_note(head.CURRENT_CLUSTER)
    if address is None or not _NOTED.fullmatch(address) or not _answers(address, 1.0):
        return None
    auth.require_token()
    return address


def read_own_note(file: Path) -> str | None:
    """Return what a file says that nobody but this user can have written; None for any other."""
    try:
        if not all(map(_is_safe_folder, file.absolute().parents)) or not _is_own(file.parent.lstat()):
            return None
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        own = stat.S_ISREG(found.st_mode) and _is_own(found)
        return os.read(descriptor, _LONGEST).decode(errors="replace").strip() if own else None
    finally:
        os.close(descriptor)


def _is_own(found: os.stat_result) -> bool:
    """Whether this user owns a file or folder and no other may write to it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_safe_folder(folder: Path) -> bool:
    """Whether nobody but this user and root can replace what this user has in a folder, as in /tmp."""
    found = folder.lstat()
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not shared


def _check_reachable(address: str, timeout: float, flag: str) -> str:
    """Return the address of a head that answers; `flag` is where it was given."""
    if "://" in address:
        raise ConfigError(
            f"{flag} {address}: training needs the head's own address, host:port (often port 6379)"
            f"{_explain_scheme(address)}"
        )
    if not _answers(address, timeout, flag):
        raise ClusterError(
            f"{flag} {address}: nothing answers there within {timeout:g} s. "
            "Is the head up (cluster/local.sh status) and the port right?"
        )
    return address


def _explain_scheme(address: str) -> str:
    """Return the end of a message about an address of another service of the cluster."""
    if address.startswith(("http://", "https://")):
        return (
            ". That is the dashboard's, which jobs are submitted to: unset it, and give "
            f"qdet submit JOB.py --address {address}"
        )
    if address.startswith("ray://"):
        return ". That is Ray Client's, which training does not use: submit the job with qdet submit JOB.py"
    return "; from outside the cluster, submit the job instead: qdet submit JOB.py"


def _answers(address: str, timeout: float, flag: str = "--ray-address") -> bool:
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"{flag} {address}: expected host:port, auto or local")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout):
            return True
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
