"""What is not as it was when a run was recorded: said before anything is trained."""

from dataclasses import dataclass

from qdet.data.plan.epoch import PLAN_VERSION
from qdet.errors import ConfigError
from qdet.training.beginning.conditions import Conditions
from qdet.training.beginning.record import Beginning

WITHIN = 1e-6
"""Largest relative difference of losses where equal bits are not promised."""


@dataclass(frozen=True, kw_only=True)
class Here:
    """Where a run is reproduced."""

    conditions: Conditions
    host: str
    ranks: int


def list_differences(recorded: Beginning, here: Here) -> list[str]:
    """Return what differs between a record and this machine, a line each."""
    then, now = recorded.conditions, here.conditions
    pairs: list[tuple[str, object, object]] = [
        ("commit of qdet", then.commit, now.commit),
        *((name, then.versions.get(name), now.versions.get(name)) for name in _names(then, now)),
        ("device", then.device, now.device),
        ("processor", then.processor, now.processor),
        ("threads per worker", then.threads, now.threads),
        ("workers", recorded.ranks, here.ranks),
        ("machine", ", ".join(dict.fromkeys(recorded.hosts)), here.host),
    ]
    return [f"{what}: {_shown(b)} here, {_shown(a)} in the record" for what, a, b in pairs if a != b]


def tolerance(recorded: Beginning, here: Here) -> float:
    """Return how far losses may differ, relative to the recorded ones: 0 where every bit must be equal.

    That is on CPUs with as many workers, or with any number of them where `train.canonical` fixes the order
    of all sums.
    """
    on_cpus = recorded.conditions.device == here.conditions.device == "cpu"
    same_order = recorded.ranks == here.ranks or bool(recorded.job.get("train.canonical"))
    return 0.0 if on_cpus and same_order else WITHIN


def check_plan(recorded: Beginning) -> None:
    """Refuse a run whose batches this version of qdet would make in another way.

    Raises:
        ConfigError: It was recorded with another version of the plan.
    """
    if recorded.plan_version != PLAN_VERSION:
        commit = recorded.conditions.commit
        raise ConfigError(
            f"this qdet orders and augments images by version {PLAN_VERSION} of its plan, the run by version "
            f"{recorded.plan_version}: use the qdet that it was trained with"
            + (f" (commit {commit[:40]})" if commit else "")
        )


def _names(then: Conditions, now: Conditions) -> list[str]:
    return sorted(then.versions.keys() | now.versions.keys())


def _shown(value: object) -> str:
    return "none" if value is None else str(value)[:100]
