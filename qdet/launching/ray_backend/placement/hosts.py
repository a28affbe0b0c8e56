"""What the machines of a Ray cluster are called in a run's record of wrong results.

By the host name that Ray gives with each node. Where nodes at several addresses share one, as machines of one
image and nodes simulated on one machine do, the address follows: `gpu@10.0.0.7`.
"""

import socket
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from qdet.training.corruption.record import is_bad


def name_host(node: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> str:
    """Return what the machine of a node is called.

    Args:
        node: As `ray.nodes()` lists it.
        nodes: All of them.
    """
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    namesakes = {n["NodeManagerAddress"] for n in nodes if n["Alive"] and n["NodeManagerHostname"] == host}
    return f"{host}@{address}" if namesakes - {address} else host


def name_own_host() -> str:
    """Return what the machine of this Ray worker is called."""
    import ray

    nodes, own = ray.nodes(), ray.get_runtime_context().get_node_id()
    found = next((node for node in nodes if node["NodeID"] == own), None)
    return socket.gethostname() if found is None else name_host(found, nodes)


def split_nodes(
    nodes: Iterable[Mapping[str, Any]], bad: Collection[str]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the living nodes that are on none of the `bad` hosts, and those that are on one.

    A host that was recorded by its name alone is bad at every address.

    Args:
        nodes: As `ray.nodes()` lists them.
        bad: Names that `name_host` or `socket.gethostname` gave.
    """
    living = [node for node in nodes if node["Alive"]]
    refused = [n for n in living if is_bad(f"{n['NodeManagerHostname']}@{n['NodeManagerAddress']}", bad)]
    return [node for node in living if node not in refused], refused
