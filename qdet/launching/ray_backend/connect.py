"""Connect to Ray: join a cluster that the user named or started, or else start a private one.

--ray-address, RAY_ADDRESS    that cluster, or an error within seconds; a Ray job has RAY_ADDRESS
neither                       the head of this user's own `cluster/local.sh up`, if it runs, or else
                              a private instance on loopback that ends with this process

Any other cluster of this machine belongs to someone else and is never joined, nor does Ray join one by itself
when its functions are called without a connection.
"""

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

from qdet.errors import ClusterError, ConfigError, type_and_first_line
from qdet.launching.ray_backend import auth, head
from qdet.storage.sockets import any_free_port, check_socket_paths, is_free

AUTO_CONNECT = "RAY_ENABLE_AUTO_CONNECT"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The cluster that this process has joined."""

    address: str
    private: bool
    """Whether this process started it, so that it ends with this process."""


def connect(address: str | None = None, *, timeout: float = 5.0) -> Connection:
    """Join or start a Ray cluster and return how this process is connected.

    Args:
        address: `host:port` of a cluster's head, `local` for a private instance, or `auto` for the head of
            `cluster/local.sh up`; by default RAY_ADDRESS, then that head where it runs.
        timeout: Seconds to wait for a named address to accept a connection.

    Raises:
        ClusterError: The cluster does not answer or rejects the token.
        ConfigError: The address is not one that training can use.
    """
    address = locate(address, timeout=timeout)
    if address is None:
        check_socket_paths(os.environ)
    try:
        return _start_private() if address is None else _join(address)
    except Exception as error:
        where = f"the Ray cluster at {address}" if address else "a local Ray instance"
        raise ClusterError(f"cannot use {where}: {type_and_first_line(error)}") from error


def locate(address: str | None = None, *, timeout: float = 5.0) -> str | None:
    """Return the address of the cluster that `connect` would join; None where it would start one.

    Raises:
        ClusterError: A named cluster does not answer.
        ConfigError: The address is not one that training can use.
    """
    named = address or os.environ.get("RAY_ADDRESS")
    if named in (None, "", "auto"):
        found = _find_own()
        if found is None and named == "auto":
            raise ClusterError(
                "--ray-address auto: this project has no Ray head of its own here; start one with "
                "cluster/local.sh up, or name another by --ray-address HOST:PORT"
            )
        return found
    flag = "--ray-address" if address else "RAY_ADDRESS"
    return None if named == "local" else _check_reachable(str(named), timeout, flag)


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
    os.environ[head.API_SERVER] = f"http://{head.HOST}:{port}"
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
    _disable_auto_connect()
    return ray.init(log_to_driver=True, logging_level=logging.WARNING, **settings)


def _disable_auto_connect() -> None:
    """Keep Ray from joining whatever cluster this machine has, in a call after `ray.shutdown`, say."""
    from ray._private import auto_init_hook

    os.environ[AUTO_CONNECT] = "0"  # for processes started from here
    auto_init_hook.enable_auto_connect = False  # Ray reads the variable once, when it is imported


def _find_own() -> str | None:
    """Return the address of the head that this user started from this folder; None where none runs."""
    import psutil

    record = head.running()
    try:
        if record is None or psutil.Process(record.pid).uids().real != os.getuid():
            return None
    except psutil.NoSuchProcess:
        return None
    os.environ.update(record.environment)
    return record.address


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
