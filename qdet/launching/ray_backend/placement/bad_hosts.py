"""Leave hosts out that silently computed something wrong, whenever Ray Train starts workers.

Ray places by labels, and every node has its id as one. What was found is recorded in the run's folder, so
that the next driver leaves the same hosts out. Ray Train decides how many workers to start without looking at
labels, so that its scaling policies learn here which nodes do not count.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import ray
from ray.train import ControllerError, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingDecision,
    ScalingPolicy,
)

from qdet.checkpoint import open_folder
from qdet.errors import ClusterError, ConfigError, QdetError
from qdet.launching.ray_backend.placement.hosts import name_host, split_nodes
from qdet.launching.ray_backend.trainer import ShardTrainer
from qdet.training.corruption.record import FILE, bad_hosts, read_incidents
from qdet.training.reporting import Run

NODE = "ray.io/node-id"
"""Label that Ray gives every node."""
NAMES_NODES = (2, 60)
"""The first version of Ray that says on which nodes it reserves room for a range of workers."""
PAUSE = 1.0
"""Seconds between looks at a cluster that is too small."""


def select_nodes(nodes: Iterable[Mapping[str, Any]], hosts: Collection[str]) -> dict[str, str] | None:
    """Return the labels that keep workers from nodes of `hosts`; None where no node is of one.

    Args:
        nodes: As `ray.nodes()` lists them.
        hosts: Names of machines, as the record of a run has them.
    """
    _, refused = split_nodes(nodes, hosts)
    ids = sorted(node["NodeID"] for node in refused)
    return {NODE: f"!in({', '.join(ids)})"} if ids else None


def count_workers(nodes: Iterable[Mapping[str, Any]], each: Mapping[str, Any]) -> int:
    """Return how many workers the nodes hold, in use or not.

    Args:
        nodes: As `ray.nodes()` lists them.
        each: Resources of one worker.
    """
    return sum(
        min((int(node["Resources"].get(name, 0.0) // need) for name, need in each.items() if need), default=0)
        for node in nodes
    )


def require_named_nodes(version: str) -> None:
    """Raise ConfigError for a version of Ray whose reservations do not name their nodes."""
    if tuple(map(int, version.split(".")[:2])) < NAMES_NODES:
        oldest = ".".join(map(str, NAMES_NODES))
        raise ConfigError(
            f"--train.exclude-bad-hosts with a range of --train.workers needs Ray {oldest}: {version} does "
            "not say on which nodes it reserves room; give one number of workers"
        )


class _LeaveOut(ScalingPolicy):
    """Part of a scaling policy in Ray Train's controller: nodes of bad hosts neither count nor get workers.

    Args:
        scaling: How many workers, and what each takes.
        run: Whose record says which hosts are bad.
        wait: Seconds to wait for other nodes where too few are left.
    """

    def __init__(self, scaling: ScalingConfig, *, run: Run, wait: float) -> None:
        super().__init__(scaling)
        self._run, self._wait = run, wait
        self._hosts: frozenset[str] = frozenset()
        self._sound: list[Mapping[str, Any]] = []
        self._refused: list[Mapping[str, Any]] = []
        self._labels: dict[str, str] | None = None
        self._named = ""
        self._short_since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Return how many workers to start; wait while the hosts that are left hold too few.

        Raises:
            ControllerError: They still do after `wait` seconds. Its cause is a ClusterError.
        """
        self._look()
        if self._refused and self._room < self.scaling_config.min_workers:
            self._check_patience()
            self._maybe_send_resource_request()
            time.sleep(PAUSE)
            return NoopDecision()
        self._short_since = None
        return super().make_decision_for_non_running_worker_group()  # pyright: ignore[reportAbstractUsage]

    def on_controller_start_worker_group(
        self, *, scaling_config: ScalingConfig, num_workers: int
    ) -> dict[str, str] | None:
        """Return the labels of the workers' nodes.

        Raises:
            ControllerError: So many do not fit; Ray Train then asks again how many to start.
        """
        self._look()
        if self._refused and num_workers > self._room:
            time.sleep(PAUSE)
            raise ControllerError(WorkerGroupStartupTimeoutError(num_workers))
        return self._labels

    def _get_num_workers_for_resource_request(self) -> int:
        """Return so many that those on sound nodes are enough even if all bad nodes are reserved too."""
        return self.scaling_config.max_workers + self._count(self._refused)

    @property
    def _room(self) -> int:
        return self._count(self._sound)

    def _count(self, nodes: Iterable[Mapping[str, Any]]) -> int:
        return count_workers(nodes, self.scaling_config._resources_per_worker_not_none)

    def _look(self) -> None:
        """Read the record, and find the nodes of its hosts; tell Ray's autoscaler where that is news."""
        with contextlib.suppress(QdetError, OSError):  # while the store is away, what was known counts
            self._hosts |= bad_hosts(read_incidents(open_folder(self._run.store).child(self._run.name)))
        nodes, before = ray.nodes(), self._labels
        self._sound, self._refused = split_nodes(nodes, self._hosts)
        self._labels = select_nodes(nodes, self._hosts)
        if self._labels == before:
            return
        self._named = ", ".join(sorted({name_host(node, nodes) for node in self._refused}))
        if self._labels is not None:
            print(f"no workers on {self._named}: found wrong before", flush=True)
        extra, most = self._count(self._refused), self.scaling_config.max_workers
        self.scaling_config.label_selector = [self._labels] * most + [{}] * extra if self._labels else None
        self._send_resource_request()

    def _check_patience(self) -> None:
        now, least = time.monotonic(), self.scaling_config.min_workers
        short = f"without {self._named} the cluster has room for {self._room} of at least {least} workers"
        if self._short_since is None:
            self._short_since = now
            if self._wait > 0:
                print(f"waiting up to {self._wait:.0f} s for nodes: {short}", flush=True)
        if now - self._short_since < self._wait:
            return
        fewer = f"give --train.workers {self._describe_room()}, " if self._room else ""
        raise ControllerError(
            ClusterError(
                f"--train.exclude-bad-hosts: {self._named} computed something wrong in this run "
                f"({self._run.store}/{self._run.name}/{FILE}), and {short}; {fewer}add nodes, or drop "
                f"--train.exclude-bad-hosts. --store.resume {self._run.name} resumes from the last checkpoint"
            )
        )

    def _describe_room(self) -> str:
        most = self.scaling_config.max_workers
        return f"{self._room}:{most}" if self.scaling_config.elasticity_enabled else str(self._room)


class _Fixed(_LeaveOut, FixedScalingPolicy):
    """For a fixed number of workers."""


class _Elastic(_LeaveOut, ElasticScalingPolicy):
    """For a range of numbers of workers."""

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        """Return how many fit into what is reserved for this run on living nodes that are not bad."""
        if not self._refused:
            return super()._count_possible_workers(reserved_resources)
        sound = {node["NodeID"] for node in self._sound}
        return super()._count_possible_workers({n: r for n, r in reserved_resources.items() if n in sound})

    def _send_resource_request(self) -> None:
        super()._send_resource_request()
        self._latest_reserved_resources_query_time = float("-inf")  # it has changed


class LeavingTrainer(ShardTrainer):
    """A trainer that places no worker on a host that its run's record names.

    Args:
        run: The run.
        wait: Seconds to wait for other nodes where too few are left.
        settings: Of Ray's trainer.

    Raises:
        ConfigError: The number of workers is a range, and this Ray does not say where it reserves room.
    """

    def __init__(self, *args: Any, run: Run, wait: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.scaling_config.elasticity_enabled:
            require_named_nodes(ray.__version__)
        self._run, self._wait = run, wait

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """Have the controller decide by a policy of ours."""
        policy = _Elastic if self.scaling_config.elasticity_enabled else _Fixed
        ours = policy(self.scaling_config, run=self._run, wait=self._wait)
        return super()._initialize_and_run_controller(**settings | {"scaling_policy": ours})
