"""What is known of a cluster before a training runs on it: plain values, which JSON holds as they are.

Facts are gathered on the machines and judged elsewhere, so that every judgement can be tried on a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Software:
    """What a process computes with."""

    versions: Mapping[str, str]
    """By name; "missing" where a package is not installed."""
    code: str
    """Digest of qdet's own files: a version may be installed from any commit."""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs of a machine."""

    names: tuple[str, ...] = ()
    driver: str | None = None
    counted: float | None = None
    """Those that Ray hands out; None without Ray."""
    error: str | None = None
    """Why NVIDIA's library does not say, where a device file is there."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A folder's file system, in bytes."""

    path: str
    free: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Copy:
    """What a machine sees of a dataset, by `digests.py`."""

    digest: str
    files: int
    bytes: int
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts of one machine, gathered on it."""

    host: str
    software: Software
    gpus: Gpus
    open_files: int
    """Soft limit of files and connections of a process; -1: none."""
    processes: int
    """Limit of processes and threads, of the user or of the container; -1: none."""
    shared_memory: Space | None
    """/dev/shm; None where the system has none."""
    disks: tuple[Space, ...]
    token: bool
    """Ray's token authentication is on in its processes."""
    taken_ports: tuple[int, ...] = ()
    """Those that were asked about and at which something listens."""
    mlflow_error: str | None = None
    """Why MLflow's server cannot be reached from there."""
    data: Mapping[str, Copy] = field(default_factory=dict)
    """By path."""


@dataclass(frozen=True, kw_only=True)
class StoreProbe:
    """What a machine could do in the store."""

    sees: bool
    """It reads what the driver has written."""
    seen: bool = False
    """The driver reads what it has written."""
    write: float | None = None
    """Bytes per second, with fsync and rename."""
    read: float | None = None
    """Bytes per second of what was just written, most likely from memory."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Link:
    """Two machines, and what passes between them."""

    source: str
    target: str
    error: str | None = None
    """Why the source cannot connect to the target."""
    speed: float | None = None
    """Bytes per second; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How far a machine's clock is ahead of the driver's, in seconds, and by how much that may be off."""

    ahead: float
    off: float


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """What the driver could do with MLflow."""

    uri: str
    """Without secrets."""
    local: bool
    """It is a file of one machine, no server."""
    error: str | None = None
    """Why a run could not be written and read back."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is known; machines are named as in `machines`."""

    here: Software
    """Of the process that asks."""
    machines: Mapping[str, Machine]
    silent: Mapping[str, str] = field(default_factory=dict)
    """Nodes that Ray lists and that gave no facts, with the reason."""
    cluster: str | None = None
    """Address of the Ray cluster; None of a machine alone."""
    open: bool | None = None
    """Ray answers who shows no token; None if unknown."""
    clocks: Mapping[str, Clock] = field(default_factory=dict)
    store: str = ""
    store_probes: Mapping[str, StoreProbe] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    group_error: str | None = None
    """Why the machines could not make a process group."""
    backend: str = "gloo"
    """Of that group."""
    mlflow: Mlflow | None = None
    data_differs: Mapping[str, str] = field(default_factory=dict)
    """Name of a file that two copies of a dataset do not share, by path."""
    ports_asked: bool = False
    """The ports were named by the user, and are not just those that a head takes first."""
