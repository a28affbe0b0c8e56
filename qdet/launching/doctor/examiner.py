"""One machine's part of an examination: it gathers facts there, and tries what the driver asks it to.

On a cluster it is an actor that takes neither CPU nor GPU, so that a busy cluster can be examined.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qdet.launching.doctor import digests, gather, links, mlflow_server, store_probe
from qdet.launching.doctor.facts import Machine, StoreProbe
from qdet.training.joining.host import Host


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be found out."""

    store: str
    """Absolute path or URL."""
    data: tuple[str, ...] = ()
    """Absolute paths or URLs of datasets."""
    ports: tuple[int, ...] = ()
    """At which a service is to listen on every machine."""
    cache: str = ""
    """Folder for shards from behind URLs; "" for none."""
    mlflow: str = ""
    """Tracking URI; "" for none."""
    patience: float = 10.0
    """Seconds for an answer."""
    secret: bytes = field(default=b"", repr=False)
    """That the machines prove to each other that they know."""


class Examiner:
    """What one machine is asked; every method may be called from a thread of its own.

    Args:
        request: What is to be found out.
        name: Of this machine among all.
        address: At which the others reach it.
        gpus: That Ray hands out here; None without Ray.
    """

    def __init__(self, request: Request, name: str, address: str, gpus: float | None = None) -> None:
        self._request, self._name, self._address, self._gpus = request, name, address, gpus
        self._host: Host | None = None
        self._kept: list[Any] = []

    def gather(self) -> Machine:
        """Return the facts of this machine."""
        asked = self._request
        local = store_probe.local_path(asked.store)
        folders = [str(folder) for folder in (local, asked.cache or None) if folder]
        return Machine(
            host=os.uname().nodename,
            software=gather.find_software(),
            gpus=gather.find_gpus(self._gpus),
            open_files=gather.find_open_files(),
            processes=gather.find_processes(),
            shared_memory=gather.find_shared_memory(),
            disks=gather.find_disks(folders),
            token=os.environ.get("RAY_AUTH_MODE") == "token",
            taken_ports=gather.find_taken(asked.ports, self._address),
            mlflow_error=mlflow_server.try_to_reach(asked.mlflow, asked.patience / 2),
            data={path: digests.describe_copy(path) for path in asked.data},
        )

    def tell_time(self) -> float:
        """Return what this machine's clock shows, in seconds."""
        return time.time()

    def list_data(self, path: str) -> dict[str, str]:
        """Return a digest of every file of a dataset."""
        return digests.digest_files(path)

    def try_store(self, probe: str, content: bytes, own: str, size: int) -> StoreProbe:
        """Try the store; see `store_probe.try_store`."""
        return store_probe.try_store(self._request.store, probe, content, own=own, size=size)

    def listen(self) -> links.Address:
        """Wait for other machines to connect; return where."""
        self._host = Host((self._address, 0), self._request.secret)
        return self._host.address

    def reach(self, addresses: Sequence[links.Address]) -> list[str | None]:
        """Connect to other machines; see `links.reach`."""
        return links.reach(addresses, self._request.secret)

    def measure(
        self, rank: int, size: int, where: links.Address, rounds: Sequence[Sequence[links.Pair]]
    ) -> tuple[str, dict[links.Pair, float]]:
        """Return the backend, and bytes per second of pairs in which this machine sends (collective)."""
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            del os.environ["CUDA_VISIBLE_DEVICES"]  # Ray hides GPUs from who takes none
        host = self._host if rank == 0 and self._host is not None else where
        backend, store = links.join_group(
            rank, size, host, self._request.secret, seconds=self._request.patience
        )
        self._kept.append(store)
        return backend, links.measure(rank, rounds, backend)
