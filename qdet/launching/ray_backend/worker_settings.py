"""What a Ray worker starts with: its environment and its share of a machine."""

import os

from qdet.allocator import ONE_KEPT_HEAP
from qdet.job import Job
from qdet.launching import paths
from qdet.storage.proxies import exempt_loopback
from qdet.tracking import tracking_environment


def worker_environment(job: Job, *, gpu: bool) -> dict[str, str]:
    """Return the environment variables that every worker starts with."""
    threads = str(job.train.cpus_per_worker)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # A spinning thread takes the core from other workers: 6 to 12 times slower on a busy machine.
        "OMP_WAIT_POLICY": "PASSIVE",
        paths.ROOT: str(paths.root()),
        **exempt_loopback(os.environ),
    }
    if not gpu:
        variables["DS_ACCELERATOR"] = "cpu"
        variables |= ONE_KEPT_HEAP
        if _all_on_loopback():
            variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def tracking_variables() -> dict[str, str]:
    """Return the variables with which workers reach MLflow.

    A URI may hold a password, and Ray logs the environment of what it starts: workers set these themselves.
    """
    return tracking_environment() | {paths.TRACKING: paths.tracking_uri()}


def worker_resources(job: Job, *, gpu: bool) -> dict[str, float]:
    """Return what of a machine every worker takes."""
    return {"CPU": float(job.train.cpus_per_worker), **({"GPU": 1.0} if gpu else {})}


def _node_addresses() -> list[str]:
    import ray

    return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]


def is_single_machine() -> bool:
    """Return whether the cluster is this machine alone, on loopback."""
    return len(_node_addresses()) == 1 and _all_on_loopback()


def _all_on_loopback() -> bool:
    """Return whether all nodes are on this machine; tests have several, at 127.0.0.2, 127.0.0.3, ..."""
    return os.uname().sysname == "Linux" and all(address.startswith("127.") for address in _node_addresses())
