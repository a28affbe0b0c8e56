"""The examination of a Ray cluster: an examiner on every node, asked with a deadline for each answer.

A node that hangs costs its own answers and a few seconds, and keeps no other from being judged.
"""

import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from qdet.errors import last_line, type_and_first_line
from qdet.launching.doctor import digests, gather, links, mlflow_server, store_probe
from qdet.launching.doctor.examiner import Examiner, Request
from qdet.launching.doctor.facts import Clock, Facts, Link, Machine, StoreProbe
from qdet.masking import mask

THREADS = 8
"""Questions that one examiner answers at a time: one that hangs must not hold up the others."""
PINGS = 5
"""Questions for the time of which the quickest counts."""
AT_ONCE = 32
"""Nodes that are asked for the time together."""
PROBE = 32 * 2**20
"""Bytes that a machine writes to the store; fewer on many, so that all together write 512 MiB at most."""
ALL_PROBES = 512 * 2**20


@dataclass
class Team:
    """The examiners of all nodes, by the names of the nodes."""

    actors: dict[str, Any]
    patience: float

    def ask(
        self, method: str, arguments: Mapping[str, tuple[Any, ...]]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Ask some nodes at once; return their answers, and why others gave none in time.

        Args:
            method: Of `Examiner`.
            arguments: By name of the node.
        """
        import ray
        from ray.exceptions import GetTimeoutError

        asked = {name: getattr(self.actors[name], method).remote(*given) for name, given in arguments.items()}
        ray.wait(list(asked.values()), num_returns=max(1, len(asked)), timeout=self.patience)
        answers: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for name, answer in asked.items():
            try:
                answers[name] = ray.get(answer, timeout=0)
            except GetTimeoutError:
                failed[name] = f"no answer within {self.patience:.0f} s"
            except Exception as error:  # of its process, or of what it was asked
                failed[name] = mask(last_line(error))
        return answers, failed


def examine_cluster(request: Request, address: str) -> Facts:
    """Return the facts of the cluster that this process has joined."""
    request = replace(request, secret=secrets.token_bytes(32))
    team = _start(request)
    background: list[Any] = []
    tracking = threading.Thread(
        target=lambda: background.append(mlflow_server.try_to_write(request.mlflow, request.patience / 2)),
        daemon=True,  # MLflow may take longer than anybody waits
    )
    tracking.start()
    machines, silent = team.ask("gather", dict.fromkeys(team.actors, ()))
    there = Team({name: team.actors[name] for name in machines}, request.patience)
    facts = Facts(
        here=gather.find_software(),
        machines=machines,
        silent=silent,
        cluster=address,
        open=_answers_without_token(),
        clocks=_compare_clocks(there),
        store=mask(request.store),
        store_probes=_probe_store(there, request),
        data_differs=_find_differences(there, machines),
    )
    facts = _measure_links(there, facts)
    tracking.join(request.patience)
    said = f"no answer within {request.patience:.0f} s"
    return replace(
        facts, mlflow=background[0] if background else mlflow_server.describe(request.mlflow, said)
    )


def _start(request: Request) -> Team:
    """Start an examiner on every node that is alive."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda n: n["NodeManagerAddress"])
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    actors = {}
    for node in nodes:
        host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
        name = host if hosts[host] == 1 else address
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        made: Any = ray.remote(Examiner)
        made = made.options(num_cpus=0, max_concurrency=THREADS, scheduling_strategy=place)
        actors[name] = made.remote(request, name, address, node["Resources"].get("GPU", 0.0))
    return Team(actors, request.patience)


def _compare_clocks(team: Team) -> dict[str, Clock]:
    """Return how far each node's clock is ahead: the quickest of some answers counts (RFC 5905)."""
    import ray

    def compare(name: str) -> Clock | None:
        found: list[Clock] = []
        for _ in range(PINGS):
            before, started = time.time(), time.perf_counter()
            try:
                shown: Any = ray.get(team.actors[name].tell_time.remote(), timeout=team.patience)
            except Exception:  # a node that is gone by now
                return None
            took = time.perf_counter() - started
            found.append(Clock(ahead=shown - before - took / 2, off=took / 2))
        return min(found, key=lambda clock: clock.off)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        clocks = dict(zip(team.actors, pool.map(compare, team.actors), strict=True))
    return {name: clock for name, clock in clocks.items() if clock is not None}


def _probe_store(team: Team, request: Request) -> dict[str, StoreProbe]:
    """Return what every node could do in the store, or why this process could do nothing."""
    size = min(PROBE, max(2**20, ALL_PROBES // max(1, len(team.actors))))
    own = {name: f"machine-{number}" for number, name in enumerate(team.actors)}
    try:
        with store_probe.open_probe(request.store) as (probe, content):
            found, failed = team.ask(
                "try_store", {name: (probe, content, file, size) for name, file in own.items()}
            )
            seen = {name: store_probe.sees(request.store, probe, own[name]) for name in found}
    except Exception as error:  # every kind of store has errors of its own
        return {store_probe.DRIVER: StoreProbe(sees=False, error=type_and_first_line(error))}
    probes = {name: replace(one, seen=seen[name]) for name, one in found.items()}
    return probes | {name: StoreProbe(sees=False, error=why) for name, why in failed.items()}


def _find_differences(team: Team, machines: Mapping[str, Machine]) -> dict[str, str]:
    """Return the name of a file that differs, for each dataset of which there are two copies."""
    found: dict[str, str] = {}
    for path in {path for machine in machines.values() for path in machine.data}:
        copies = {
            name: machine.data[path].digest for name, machine in machines.items() if path in machine.data
        }
        different = {digest: name for name, digest in copies.items() if digest}
        if len(different) < 2:
            continue
        listed, _ = team.ask("list_data", dict.fromkeys(list(different.values())[:2], (path,)))
        if len(listed) == 2 and (file := digests.find_difference(*listed.values())):
            found[path] = file
    return found


def _measure_links(team: Team, facts: Facts) -> Facts:
    """Return the facts with who connects to whom, and how fast; speed only where all connect."""
    names = list(team.actors)
    if len(names) < 2:
        return facts
    listening, failed = team.ask("listen", dict.fromkeys(names, ()))
    found = [Link(source=name, target="itself", error=why) for name, why in failed.items()]
    names = [name for name in names if name in listening]
    targets = {
        name: [names[other] for other in others]
        for name, others in zip(names, links.choose_targets(len(names)), strict=True)
    }
    arguments = {name: ([listening[one] for one in others],) for name, others in targets.items()}
    reached, failed = team.ask("reach", arguments)
    found += [Link(source=name, target="others", error=why) for name, why in failed.items()]
    for name, errors in reached.items():
        found += [
            Link(source=name, target=to, error=why) for to, why in zip(targets[name], errors, strict=True)
        ]
    if len(names) < 2 or any(link.error for link in found):
        return replace(facts, links=tuple(found))
    return _measure_speed(team, replace(facts, links=tuple(found)), listening)


def _measure_speed(team: Team, facts: Facts, listening: Mapping[str, links.Address]) -> Facts:
    names = list(listening)
    rounds = links.choose_rounds(len(names))
    given = {name: (rank, len(names), listening[names[0]], rounds) for rank, name in enumerate(names)}
    patient = Team(team.actors, team.patience + 2.0)  # gloo itself gives up first, and says why
    answers, failed = patient.ask("measure", given)
    backend = next((answer[0] for answer in answers.values()), "gloo")
    if failed:
        name, why = next(iter(failed.items()))
        return replace(facts, backend=backend, group_error=f"{name}: {why}")
    speeds = [(pair, speed) for _, measured in answers.values() for pair, speed in measured.items()]
    found = tuple(Link(source=names[a], target=names[b], speed=speed) for (a, b), speed in speeds)
    return replace(facts, backend=backend, links=facts.links + found)


def _answers_without_token() -> bool | None:
    """Whether the cluster's dashboard answers who shows no token; None where it has none that answers."""
    from ray._private.worker import get_dashboard_url

    where = get_dashboard_url()
    if not where:
        return None
    try:
        with urllib.request.urlopen(f"http://{where}/api/version", timeout=5):
            return True
    except urllib.error.HTTPError as answer:
        return False if answer.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else None
    except OSError:
        return None
