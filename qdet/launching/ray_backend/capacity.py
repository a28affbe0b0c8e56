"""Whether a cluster can hold a job's workers, and whether they train on GPUs or CPUs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from qdet.errors import ClusterError
from qdet.job import TrainConfig

KIND = "accelerator_type:"
"""Begins the resource by which Ray names a node's GPUs."""

DRIVER_BYTES = 1.0e9
"""What the driver of a sweep's trial takes beside its workers, with Ray Train's controller and helpers.

Measured on Linux, shared pages by share: 0.97 GB, of which the driver 0.41 and the controller 0.26.

It reserves no CPU, which would be missing for the workers.
"""


@dataclass(frozen=True)
class Node:
    """Total resources of one node, in use or not."""

    cpus: float
    gpus: float
    kinds: frozenset[str] = frozenset()
    """Its GPUs, as Ray names them."""
    memory: float = float("inf")
    """Bytes that Ray may hand out."""


def count_workers_that_fit(
    nodes: Sequence[Node], *, cpus: int, gpu: bool, gpu_type: str | None = None
) -> int:
    """Return how many workers of this size the nodes hold; a worker never spans two nodes."""
    fitting = [node for node in nodes if not gpu or gpu_type is None or gpu_type in node.kinds]
    return sum(min(int(node.cpus // cpus), int(node.gpus) if gpu else 10**9) for node in fitting)


def count_room(nodes: Sequence[Node], train: TrainConfig, *, gpu: bool) -> int:
    """Return how many workers of a job the nodes hold."""
    return count_workers_that_fit(nodes, cpus=train.cpus_per_worker, gpu=gpu, gpu_type=train.gpu_type)


def choose_gpu(nodes: Sequence[Node], train: TrainConfig) -> bool | None:
    """Return True for GPUs, False for CPUs, None if even the minimum of `train.workers` does not fit.

    A job that names a kind of GPU trains on no CPU.
    """
    for gpu in (True, False):
        wanted = train.accelerator in ("auto", "gpu" if gpu else "cpu") and (gpu or train.gpu_type is None)
        if wanted and count_room(nodes, train, gpu=gpu) >= train.least_workers:
            return gpu
    return None


def wait_for_workers(train: TrainConfig, *, seconds: float) -> bool:
    """Wait until the cluster is large enough for `train`; return whether the workers train on GPUs.

    Resources in use by other jobs count, since Ray Train queues for them. While nodes are missing, a pending
    placement group asks the cluster's autoscaler, if there is one, for them.

    Raises:
        ClusterError: The cluster is still too small after `seconds`.
    """
    gpu = choose_gpu(list_nodes(), train)
    if gpu is not None:
        return gpu
    deadline = time.monotonic() + seconds
    if seconds > 0:
        print(f"waiting up to {seconds:.0f} s for nodes: {_shortage(train)}", flush=True)
    with _Demand(train):
        while time.monotonic() < deadline:
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
            gpu = choose_gpu(list_nodes(), train)
            if gpu is not None:
                return gpu
    raise ClusterError(
        f"{_shortage(train)}. Lower --train.workers or --train.cpus-per-worker, or add nodes to the cluster"
    )


def _wants_gpu(train: TrainConfig) -> bool:
    return train.accelerator == "gpu" or train.gpu_type is not None


class _Demand:
    """A pending placement group: Ray's autoscaler adds nodes for it."""

    def __init__(self, train: TrainConfig) -> None:
        bundle: dict[str, float] = {"CPU": train.cpus_per_worker}
        if _wants_gpu(train):
            bundle["GPU"] = 1
        if train.gpu_type is not None:
            bundle[f"{KIND}{train.gpu_type}"] = 0.001
        self._bundles, self._strategy = [bundle] * train.least_workers, train.placement.upper()

    def __enter__(self) -> None:
        from ray.util.placement_group import placement_group

        self._group = placement_group(self._bundles, strategy=self._strategy)

    def __exit__(self, *_: object) -> None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)


def list_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    import ray

    return [
        Node(
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            frozenset(name.removeprefix(KIND) for name in node["Resources"] if name.startswith(KIND)),
            node["Resources"].get("memory", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def share_of_driver(nodes: Sequence[Node]) -> float:
    """Return the bytes that the driver of a trial reserves: all of the largest node's where that has less."""
    return min(DRIVER_BYTES, max(node.memory for node in nodes))


def count_drivers(nodes: Sequence[Node]) -> int:
    """Return how many drivers of trials the nodes have memory for: one at least."""
    each = share_of_driver(nodes)
    return max(1, sum(int(min(node.memory, 1e18) // each) for node in nodes if each))


def explain_shortage(nodes: Sequence[Node], train: TrainConfig) -> str:
    """Say in a few words what a job needs that the nodes do not have."""
    gpu = _wants_gpu(train)
    room = count_room(nodes, train, gpu=gpu)
    each = f" of {train.cpus_per_worker} CPUs" if train.cpus_per_worker > 1 else ""
    workers = "worker" if train.least_workers == 1 else "workers"
    kind = f"{train.gpu_type or 'GPU'} " if gpu else ""
    return f"needs {train.least_workers} {kind}{workers}{each}, the cluster has {room}"


def _shortage(train: TrainConfig) -> str:
    nodes = list_nodes()
    each = f"{train.cpus_per_worker} CPU" + ("s" if train.cpus_per_worker > 1 else "")
    gpu = _wants_gpu(train)
    each += f" and 1 {train.gpu_type or 'GPU'}" if gpu else ""
    room = count_room(nodes, train, gpu=gpu)
    kinds = ", ".join(sorted({kind for node in nodes for kind in node.kinds}))
    have = (
        f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs on {len(nodes)} nodes"
        + (f", GPUs: {kinds}" if train.gpu_type is not None and kinds else "")
    )
    return f"--train.workers {train.workers} of {each} each, but the cluster has room for {room} ({have})"
