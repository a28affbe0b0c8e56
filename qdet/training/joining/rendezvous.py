"""Where the ranks of a run meet: rank 0 listens on the interface of the job, the others join it.

torchrun              its agent's store says where rank 0 listens; who changes that only delays the join
RANK, MASTER_ADDR     rank 0 listens there
Ray                   its workers are told by `qdet.launching.ray_backend.rendezvous`
"""

import hashlib
import hmac
import ipaddress
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import timedelta

from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from qdet.errors import ClusterError, ConfigError
from qdet.training.joining.host import Host
from qdet.training.joining.store import JoinStore, hosted, joined

SECRET = "QDET_JOIN_SECRET"
"""Environment variable: what all ranks of a run know and nobody else."""
_WHERE = "qdet/join"  # the key in torchrun's store
_AGAIN = 0.2  # seconds between attempts to join


def derive_secret(shared: str, run: str) -> str:
    """Return the secret of one run from one that all its machines share."""
    return hmac.digest(shared.encode(), f"run {run}".encode(), hashlib.sha256).hex()


def require_secret(given: str | None) -> bytes:
    """Return the secret that ranks join with.

    Raises:
        ConfigError: There is none.
    """
    secret = given or os.environ.get(SECRET)
    if not secret:
        raise ConfigError(
            f"several processes need a secret to find each other: set {SECRET} to the same random letters "
            "for all of them (openssl rand -hex 32)"
        )
    return secret.encode()


def meet(rank: int, secret: bytes, *, timeout: int | float) -> JoinStore:
    """Return the store of this rank, as torchrun's or the user's environment variables say where.

    Raises:
        ClusterError: Rank 0 cannot be joined, or what listens at its address does not know the secret.
    """
    master, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    prefer_interface(master)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        if rank == 0:
            return host_store(Host((master, port), secret), timeout=timeout)
        return join_when_up(lambda: (master, port), secret, timeout)
    agent, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout))))
    if rank == 0:
        host = Host((_own_address(master), 0), secret)
        agent.set(_WHERE, f"{host.address[0]} {host.address[1]}")
        return host_store(host, timeout=timeout)
    return join_when_up(lambda: _read_address(agent), secret, timeout)


def host_store(host: Host, *, timeout: int | float) -> JoinStore:
    """Return the store of rank 0, which hosts it."""
    return JoinStore(hosted(host.table), timeout=timeout)


def join_store(address: tuple[str, int], secret: bytes, *, timeout: int | float) -> JoinStore:
    """Return the store of another rank than 0.

    Raises:
        JoinError: What listens there does not know the secret.
        OSError: Nothing listens there.
    """
    return JoinStore(joined(address, secret, timeout=timeout), timeout=timeout)


def prefer_interface(address: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep gloo's connections between ranks on loopback too where rank 0 is reached there."""
    if is_loopback(address) and (name := _loopback_interface()):
        environment.setdefault("GLOO_SOCKET_IFNAME", name)


def is_loopback(address: str) -> bool:
    """Whether a name or number means this machine alone."""
    with suppress(OSError, ValueError):
        return all(ipaddress.ip_address(found).is_loopback for found in _resolve(address))
    return False


def join_when_up(where: Callable[[], tuple[str, int]], secret: bytes, timeout: int | float) -> JoinStore:
    """Join rank 0 as soon as it listens; after a restart its former address may still be written.

    Raises:
        ClusterError: It cannot be joined in time, or what listens there does not know the secret.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            return join_store(where(), secret, timeout=timeout)
        except OSError as error:
            if time.monotonic() > until:
                where_to = ":".join(map(str, where()))
                raise ClusterError(
                    f"rank 0 cannot be joined at {where_to} within {timeout:.0f} s: {error}. Check the "
                    f"network, and that {SECRET}, where it is set, is the same on all machines"
                ) from error
            time.sleep(_AGAIN)


def _read_address(agent: Store) -> tuple[str, int]:
    host, _, port = agent.get(_WHERE).decode().partition(" ")
    return host, int(port)


def _own_address(master: str) -> str:
    """Return the address of this machine's interface that MASTER_ADDR is on, or is reached by."""
    for address in _resolve(master):
        with suppress(OSError), socket.create_server((address, 0), family=_family(address)):
            return address
    address = _resolve(master)[0]
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        return probe.getsockname()[0]


def _resolve(name: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _loopback_interface() -> str | None:
    import psutil

    found = psutil.net_if_addrs().items()
    return next((name for name, held in found if any(a.address == "127.0.0.1" for a in held)), None)
