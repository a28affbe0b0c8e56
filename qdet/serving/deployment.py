"""The service as a Ray Serve deployment: replicas behind Serve's HTTP proxy, one board for their metrics."""

import asyncio
import contextlib
import importlib
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from qdet.errors import ClusterError, last_line
from qdet.serving.app import create_app
from qdet.serving.metrics import MetricsBoard, write_text
from qdet.serving.service import Service
from qdet.serving.settings import ServiceSettings
from qdet.serving.spec import DeploymentSpec, ModelSpec

CONTROLLER = "SERVE_CONTROLLER_ACTOR"
NAMESPACE = "serve"
REPORT_SECONDS = 5.0
"""How often a replica reports its metrics."""
FAILURES = 5
"""Forward passes that may fail in a row before a replica is restarted."""
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


@serve.deployment
@serve.ingress()
class DetectionReplica:
    """One process with a model; `app.create_app` answers its requests."""

    def __init__(self, model: ModelSpec, settings: ServiceSettings, threads: int, board: str) -> None:
        import torch

        from qdet.inference.load import load

        _listen_on_node_address()
        torch.set_num_threads(threads)  # Ray would let a replica use as many as it reserves: one
        loaded = load(model.source, device=model.device, precision=model.precision, averaged=model.averaged)
        self._service = Service(loaded, settings)
        self._board, self._id = board, serve.get_replica_context().replica_id.unique_id
        self._reporting: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application, which Serve asks for once the model is loaded."""
        return create_app(self._service, self._scrape)

    async def check_health(self) -> None:
        """Report metrics from now on; raise where the model fails again and again, to be restarted."""
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().create_task(self._report_forever())
        if self._service.failures_in_row >= FAILURES:
            raise RuntimeError(f"the last {FAILURES} forward passes failed")

    async def _scrape(self) -> bytes:
        with contextlib.suppress(Exception):
            board = await self._report()
            return write_text(await board.collect.remote())
        return write_text(self._service.metrics.collect())  # the board is gone

    async def _report(self) -> Any:
        board: Any = ray.get_actor(self._board, namespace=NAMESPACE)
        await board.report.remote(self._id, self._service.metrics.collect())
        return board

    async def _report_forever(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                await self._report()
            await asyncio.sleep(REPORT_SECONDS)


def require_no_serve() -> None:
    """Raise ClusterError if Serve runs on the Ray cluster of this process."""
    if _serve_is_running():
        raise ClusterError(
            "Ray Serve runs on that cluster already, and a cluster has one HTTP address; stop it with "
            "`serve shutdown`, or leave RAY_ADDRESS out to start a Ray of its own"
        )


def deploy(spec: DeploymentSpec) -> None:
    """Start Serve and the application on the Ray cluster of this process; return once it answers.

    Raises:
        ClusterError: The replicas do not start.
    """
    http = {"host": spec.host, "port": spec.proxy_port or spec.port, "keep_alive_timeout_s": 30, **spec.tls}
    board = f"{spec.name}-metrics"
    # Kept until the application ends: the handle is what the board lives by.
    ray.remote(num_cpus=0)(MetricsBoard).options(
        name=board, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote()
    try:
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_QUIET)
        serve.run(_bind(spec, board), name=spec.name, route_prefix="/", logging_config=_QUIET)
    except Exception as error:
        raise ClusterError(f"the service did not start: {last_line(error)}") from error


def undeploy(name: str) -> None:
    """Let running requests end, then take the application down."""
    with contextlib.suppress(Exception):
        serve.delete(name)
    with contextlib.suppress(Exception):
        ray.kill(ray.get_actor(f"{name}-metrics", namespace=NAMESPACE))


def leave_cluster() -> None:
    """Take Serve down unless others have put applications on it since it was started for ours.

    A cluster that ends with this process needs none of this: Ray would say of it that a task failed.
    """
    with contextlib.suppress(Exception):  # of a cluster that is gone
        if not serve.status().applications:
            serve.shutdown()


def _bind(spec: DeploymentSpec, board: str) -> Any:
    limits = spec.settings.limits
    least, most = spec.replicas
    count: dict[str, Any] = {"num_replicas": least}
    if most > least:
        count = {
            "num_replicas": "auto",
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": 2 * spec.settings.batch_size,
            },
        }
    replica: Any = DetectionReplica
    deployment = replica.options(
        name=spec.name,
        ray_actor_options={
            "num_cpus": spec.cpus,
            "num_gpus": spec.gpus,
            "runtime_env": {"env_vars": spec.environment()},
        },
        max_ongoing_requests=2 * limits.queue + 16,  # beyond the queue the service itself answers 503
        max_queued_requests=16 * limits.queue,
        graceful_shutdown_timeout_s=limits.upload_seconds + limits.answer_seconds,
        health_check_period_s=5,
        **count,
    )
    return deployment.bind(spec.model, spec.settings, spec.cpus, board)


def _listen_on_node_address() -> None:
    """Open a replica's port for calls from other deployments at the address of its Ray node alone.

    Serve opens it on all interfaces once the constructor returns, and what it receives is unpickled: on a Ray
    of this machine only loopback may reach it, even though it asks for Ray's token.
    """
    replica: Any = importlib.import_module("ray.serve._private.replica")
    bind = replica.add_port_to_grpc_server

    def bind_to_node(server: Any, address: str) -> int:
        host, _, port = address.rpartition(":")
        own = ray.util.get_node_ip_address() if host == "[::]" else host
        return bind(server, f"[{own}]:{port}" if ":" in own and "[" not in own else f"{own}:{port}")

    replica.add_port_to_grpc_server = bind_to_node


def _serve_is_running() -> bool:
    try:
        ray.get_actor(CONTROLLER, namespace=NAMESPACE)
    except ValueError:
        return False
    return True
