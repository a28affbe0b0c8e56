"""All checks, in the order in which they are shown."""

from collections.abc import Callable

from qdet.launching.doctor import cluster_checks, machine_checks, service_checks
from qdet.launching.doctor.facts import Facts
from qdet.launching.doctor.findings import Finding

CHECKS: tuple[Callable[[Facts], list[Finding]], ...] = (
    cluster_checks.check_nodes,
    cluster_checks.check_versions,
    machine_checks.check_gpus,
    cluster_checks.check_links,
    service_checks.check_store,
    machine_checks.check_disks,
    service_checks.check_data,
    service_checks.check_mlflow,
    cluster_checks.check_token,
    cluster_checks.check_clocks,
    machine_checks.check_ports,
    machine_checks.check_limits,
    machine_checks.check_shared_memory,
)


def diagnose(facts: Facts) -> list[Finding]:
    """Return what every check finds."""
    return [finding for check in CHECKS for finding in check(facts)]
