"""Leave hosts out that silently computed something wrong, whenever Ray Train starts workers.

Ray places by labels, and every node has its id as one. What was found is recorded in the run's folder, so
that the next driver leaves the same hosts out.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from qdet.checkpoint import open_folder
from qdet.errors import QdetError
from qdet.training.corruption.record import bad_hosts, read_incidents
from qdet.training.reporting import Run

NODE = "ray.io/node-id"
"""Label that Ray gives every node."""


def select_nodes(nodes: Iterable[Mapping[str, Any]], hosts: Collection[str]) -> dict[str, str] | None:
    """Return the labels that keep workers from nodes of `hosts`; None where no node is of one.

    Args:
        nodes: As `ray.nodes()` lists them.
        hosts: Names of machines, as Python's `socket.gethostname` gives them.
    """
    refused = sorted(n["NodeID"] for n in nodes if n["Alive"] and n["NodeManagerHostname"] in hosts)
    return {NODE: f"!in({', '.join(refused)})"} if refused else None


def leave_out_bad_hosts(run: Run) -> Any:
    """Return a callback of Ray Train's controller that places workers of `run` on no host found wrong."""
    import ray
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class LeaveOut(ControllerCallback):
        def on_controller_start_worker_group(self, **_: Any) -> dict[str, str] | None:
            hosts = _find_bad_hosts(run)
            labels = select_nodes(ray.nodes(), hosts)
            if labels is not None:
                print(f"no workers on {', '.join(sorted(hosts))}: found wrong before", flush=True)
            return labels

    return LeaveOut()


def _find_bad_hosts(run: Run) -> frozenset[str]:
    """Return the hosts; none where the store is away: each worker looks again when it starts."""
    with contextlib.suppress(QdetError, OSError):
        return bad_hosts(read_incidents(open_folder(run.store).child(run.name)))
    return frozenset()
