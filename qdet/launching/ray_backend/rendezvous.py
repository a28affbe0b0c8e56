"""How the workers of Ray Train find each other: through a store of ours, open to those with the run's secret.

Ray Train's own rendezvous opens torch's TCPStore on all interfaces to everyone. The secret is new for every
start of the workers, and reaches them as all else that the driver has them do: through Ray, behind its token.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from qdet.training.joining.host import Host

if TYPE_CHECKING:
    from ray.train._internal.base_worker_group import BaseWorkerGroup

_hosts: dict[str, Host] = {}  # by secret; in the process of rank 0


@dataclass
class AuthenticatedTorch(TorchConfig):
    """Makes the process group of the workers, which no process without the run's secret can join."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train starts the workers with."""
        return _AuthenticatedBackend


class _AuthenticatedBackend(_TorchBackend):
    def on_start(self, worker_group: "BaseWorkerGroup", backend_config: TorchConfig) -> None:
        """Make the process group: rank 0 listens on its node's address, and the others join it."""
        secret, size = secrets.token_hex(32), len(worker_group)
        worker_group.execute(_set_torch_distributed_env_vars)
        address = worker_group.execute_single(0, _host, secret) if size > 1 else None
        enter: Callable[..., Any] = worker_group.execute_single_async
        backend, timeout = backend_config.backend or "gloo", backend_config.timeout_s
        ray.get([enter(rank, _enter, address, secret, backend, timeout) for rank in range(size)])


def _host(secret: str) -> tuple[str, int]:
    """Open the store of a run in the worker of rank 0; return its address."""
    _hosts.clear()
    host = _hosts[secret] = Host((ray.util.get_node_ip_address(), 0), secret.encode())
    return host.address


def _enter(address: tuple[str, int] | None, secret: str, backend: str, timeout: int) -> None:
    """Enter the process group in a worker."""
    from torch._C._distributed_c10d import HashStore

    from qdet.training.distributed import enter_group
    from qdet.training.joining.rendezvous import host_store, join_when_up, prefer_interface

    if address is None:
        enter_group(HashStore(), backend, timeout=timeout)
        return
    prefer_interface(address[0])
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address[0], str(address[1])
    if secret in _hosts:
        store = host_store(_hosts[secret], timeout=timeout)
    else:
        store = join_when_up(lambda: address, secret.encode(), timeout)
    enter_group(store, backend, timeout=timeout)
