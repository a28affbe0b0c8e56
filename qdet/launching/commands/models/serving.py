"""Serving a model until a signal: the cluster, the deployment, and how it all ends."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from qdet.errors import ClusterError, ConfigError
from qdet.launching.commands.models.listening import free_port
from qdet.launching.ray_backend.connect import Connection, connect, disconnect
from qdet.serving.spec import DeploymentSpec

LOOPBACK = "127.0.0.1,localhost,::1"
LOCAL_SETTINGS = {
    # One event loop per process: handing every message from thread to thread costs more than it gains here.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # How often the controller looks at its replicas; at Ray's 0.1 that takes 3% of a core.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}


def serve_until_stopped(spec: DeploymentSpec) -> None:
    """Serve until Ctrl-C or SIGTERM, on the cluster of RAY_ADDRESS or on a Ray of its own.

    Args:
        spec: What to serve; CPUs and GPUs of a replica become its share of the cluster.

    Raises:
        ClusterError: The cluster or the service does not start.
        ConfigError: Another program took the port meanwhile.
    """
    _bypass_proxies()
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.update(LOCAL_SETTINGS)
        if spec.replicas == (1, 1):
            os.environ.update(_listen_in_replica(spec.port))
            spec = replace(spec, proxy_port=free_port(spec.host, 0))
    connection = connect(address)
    try:
        with _catch_signals() as stopped:  # not above: Ray installs handlers of its own
            _deploy_until(stopped, spec, connection)
    finally:
        disconnect()


def _deploy_until(stopped: threading.Event, spec: DeploymentSpec, connection: Connection) -> None:
    from qdet.serving import deployment  # not above: Ray reads its token once, when imported

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cpus, gpus = share_cluster(spec.replicas[1], spec.model.device)
    deployment.require_no_serve()
    try:
        deploy_at_free_port(replace(spec, cpus=cpus, gpus=gpus), deployment.deploy)
        _announce(spec, connection)
        stopped.wait()
        print("stopping: running requests are answered first", file=sys.stderr, flush=True)
    finally:
        deployment.undeploy(spec.name)
        if not connection.private:
            deployment.leave_cluster()


def deploy_at_free_port(spec: DeploymentSpec, deploy: Callable[[DeploymentSpec], None]) -> None:
    """Deploy; say so where another program took the port meanwhile, of which Serve says nothing.

    Raises:
        ClusterError: The replicas do not start.
        ConfigError: Something listens at the port.
    """
    free_port(spec.host, spec.port)  # Ray took seconds to start
    try:
        deploy(spec)
    except ClusterError:
        free_port(spec.host, spec.port)
        raise


def _listen_in_replica(port: int) -> dict[str, str]:
    """Return Serve's settings under which the only replica listens at the port, without a proxy in between.

    The way through the proxy costs 5 ms of processor time per request, as much as a small model
    (docs/serving.md).
    """
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a replica that replaces a dead one takes its port
    }


def parse_replicas(text: str) -> tuple[int, int]:
    """Return the fewest and the most replicas of `1` or `1:4`.

    Raises:
        ConfigError: It is neither.
    """
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()):
        raise ConfigError(f"--replicas {text}: expected a number, or 1:4 for one to four")
    pair = int(least), int(most or least)
    if not 1 <= pair[0] <= pair[1]:
        raise ConfigError(f"--replicas {text}: expected at least 1, and no fewer behind the colon")
    return pair


def share_cluster(replicas: int, device: str) -> tuple[int, float]:
    """Return the CPUs and GPUs that each of so many replicas takes of the connected cluster."""
    import ray

    has = ray.cluster_resources()
    cpus = max(1, int(has.get("CPU", 1)) // replicas)
    wanted = device == "cuda" or (device == "auto" and has.get("GPU", 0) > 0)
    return cpus, min(1.0, has.get("GPU", 0) / replicas) if wanted else 0.0


def _announce(spec: DeploymentSpec, connection: Connection) -> None:
    scheme = "https" if spec.tls else "http"
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    where = "a Ray of its own" if connection.private else f"the Ray cluster at {connection.address}"
    print(f"serving at {scheme}://{host}:{spec.port} on {where}; see /docs there", flush=True)


def _bypass_proxies() -> None:
    """Keep an http_proxy of the environment out of calls between Ray's processes on this machine."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), LOOPBACK)))


@contextmanager
def _catch_signals() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second one ends the process at once."""
    stopped = threading.Event()

    def handle(number: int, _: object) -> None:
        if stopped.is_set():
            raise SystemExit(128 + number)
        stopped.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
