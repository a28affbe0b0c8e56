"""What was found wrong in a run: `corruption.json` in its folder, which restarts and other programs read."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import msgspec

from qdet.errors import StorageError
from qdet.storage import Folder
from qdet.storage.parsing import parse_json_object

FILE = "corruption.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Results that differed where they must not."""

    step: int
    """The step, counted from 1."""
    what: str
    """What differed."""
    ranks: tuple[int, ...]
    """Which were wrong, or may have been."""
    hosts: tuple[str, ...]
    """Their hosts, each once."""
    decided: bool
    """Whether a majority says that these were wrong."""

    def __str__(self) -> str:
        """Return it in one sentence."""
        ranks = " and ".join(map(str, self.ranks)) if self.decided else " or ".join(map(str, self.ranks))
        hosts, many = ", ".join(self.hosts), "s" if len(self.ranks) > 1 else ""
        where = f"on rank{many} {ranks} (host {hosts})"
        return f"step {self.step}: {self.what} {'was wrong' if self.decided else 'differed'} {where}"


def read_incidents(folder: Folder) -> tuple[Incident, ...]:
    """Return what was found in a run so far, oldest first.

    Raises:
        StorageError: The record is damaged or cannot be read.
    """
    if folder.size(FILE) is None:
        return ()
    try:
        found = parse_json_object(folder.read(FILE))
        if found.get("format") != _FORMAT:
            raise ValueError(f"format {found.get('format')!r}, not {_FORMAT}")
        return tuple(msgspec.convert(found["incidents"], list[Incident]))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder}/{FILE} is no record of wrong results ({error}); remove it") from error


def add_incident(folder: Folder, incident: Incident) -> None:
    """Append to the record of a run."""
    incidents = [asdict(one) for one in (*read_incidents(folder), incident)]
    folder.put(FILE, json.dumps({"format": _FORMAT, "incidents": incidents}, indent=1).encode())


def is_bad(host: str, bad: Collection[str]) -> bool:
    """Whether a host is among `bad` ones: itself, or where it is called `name@address`, its name alone."""
    return host in bad or host.partition("@")[0] in bad


def bad_hosts(incidents: Sequence[Incident]) -> frozenset[str]:
    """Return the hosts that a majority found wrong; of two ranks that differ neither is known to be."""
    return frozenset(host for incident in incidents if incident.decided for host in incident.hosts)
