"""Reaching a Ray cluster: join the one that is named or runs here, or start one for this process alone.

--ray-address, RAY_ADDRESS    that cluster, or an error within seconds
neither                       the head of `cluster/local.sh up`, then any other head on this machine,
                              then a private instance on loopback that ends with this process
"""

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

from qdet.errors import ClusterError, ConfigError
from qdet.launching.ray_backend import auth, head


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The cluster that this process belongs to now."""

    address: str
    private: bool
    """True when it was started by this process and ends with it."""


def connect(address: str | None = None, *, timeout: float = 5.0) -> Connection:
    """Join or start a Ray cluster.

    Args:
        address: `host:port` of a cluster's head, or `local` for an instance of our own; by default
            RAY_ADDRESS or whatever runs on this machine.
        timeout: Seconds to wait for a named address to accept a connection.

    Raises:
        ClusterError: The cluster does not answer or does not let us in.
        ConfigError: The address is of a kind that training cannot use.
    """
    named = address or os.environ.get("RAY_ADDRESS")
    if named in (None, "", "auto"):
        address = _running_here()
        if address is None and named == "auto":
            raise ClusterError(
                "--ray-address auto: no Ray head runs on this machine; start one with cluster/local.sh up"
            )
    else:
        address = None if named == "local" else _reachable(str(named), timeout)
    try:
        return _start_private() if address is None else _join(address)
    except Exception as error:
        where = f"the Ray cluster at {address}" if address else "a local Ray instance"
        raise ClusterError(f"cannot use {where}: {_first_line(error)}") from error


def leave() -> None:
    """Leave the cluster, a private one with all that runs on it; Ray prints nothing after this."""
    import ray

    ray.shutdown()


def _join(address: str) -> Connection:
    _ray_init(address=address)
    return Connection(address=address, private=False)


def _start_private() -> Connection:
    os.environ.update(head.LOCAL_SETTINGS)
    auth.require_token()
    port = _free_port()
    # What watches over a training asks its cluster how it is, and would take another one of this machine for
    # that, or the one that was here last. All that this one starts inherits the variable.
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
    os.environ.pop("RAY_ADDRESS", None)  # it would win over `address="local"`
    return ray.init(log_to_driver=True, logging_level=logging.WARNING, **settings)


def _running_here() -> str | None:
    record = head.running()
    if record is not None:
        os.environ.update(record.environment)
        return record.address
    if head.CURRENT_CLUSTER.is_file():
        address = head.CURRENT_CLUSTER.read_text().strip()
        if _answers(address, 1.0):
            return address
    return None


def _reachable(address: str, timeout: float) -> str:
    if "://" in address:
        raise ConfigError(
            f"--ray-address {address}: training needs the head's own address, host:port (often port 6379); "
            "from outside the cluster submit the job instead: python -m qdet submit JOB.py"
        )
    if not _answers(address, timeout):
        raise ClusterError(
            f"--ray-address {address}: nothing answers there within {timeout:g} s. "
            "Is the head up (cluster/local.sh status) and the port right?"
        )
    return address


def _answers(address: str, timeout: float) -> bool:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--ray-address {address}: expected host:port, auto or local")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((head.HOST, 0))
        return probe.getsockname()[1]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
