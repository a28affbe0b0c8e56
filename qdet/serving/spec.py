"""What is deployed: which model, how often, at which address."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from qdet.allocator import ONE_KEPT_HEAP
from qdet.serving.settings import ServiceSettings


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What every replica loads."""

    source: str
    device: str
    precision: Literal["auto", "bf16", "fp32"]
    averaged: bool


@dataclass(frozen=True, kw_only=True)
class DeploymentSpec:
    """What is deployed, how often and where."""

    model: ModelSpec
    settings: ServiceSettings
    name: str = "qdet"
    """Of Serve's application; one cluster has one of each name."""
    host: str = "127.0.0.1"
    port: int = 8000
    proxy_port: int | None = None
    """Of Serve's HTTP proxy where the only replica listens at `port` itself; None: the proxy does."""
    tls: Mapping[str, str] = field(default_factory=dict)
    """Serve's options of that name: ssl_certfile and ssl_keyfile."""
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most."""
    cpus: int = 1
    """Of each replica, which computes with as many threads."""
    gpus: float = 0.0
    """Of each replica; several may share one."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables that every replica starts with."""
        threads = {"OMP_NUM_THREADS": str(self.cpus), "OMP_WAIT_POLICY": "PASSIVE"}
        return threads if self.gpus else threads | ONE_KEPT_HEAP
