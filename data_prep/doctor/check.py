"""Check sets of shards: every annotation, then every image, each read once from front to back."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from data_prep.doctor.duplicates import Places, describe_pairs, find_copies, find_look_alikes
from data_prep.doctor.findings import SHOWN, Finding, sort_findings
from data_prep.doctor.fingerprints import Fingerprint, Fingerprints, fingerprint
from data_prep.doctor.labels import LabelTally
from data_prep.progress import show_progress
from data_prep.wording import plural
from qdet.console import open_console
from qdet.data.shards.locate import Access
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError

T = TypeVar("T")
_BLOCK = 256  # samples read at a time


@dataclass(frozen=True)
class Examination:
    """Everything that was seen."""

    sets: tuple[ShardSet, ...]
    tallies: tuple[LabelTally, ...]
    """Counts of each set."""
    findings: tuple[Finding, ...]


def check_shards(
    folders: Sequence[str | Path],
    *,
    pixels: bool = True,
    access: Access | None = None,
    console: Console | None = None,
) -> tuple[Finding, ...]:
    """Say what may be wrong with a dataset, or with several that belong together.

    Args:
        folders: Folders or URLs of shards: the training set first, then others that must not share images
            with it.
        pixels: Also decode every image, which finds copies that merely look the same, and damage. Without,
            only annotations and the index are read.
        access: How shards are read.
        console: Where progress is shown; by default nowhere.

    Returns:
        Warnings, then notes; empty where nothing is suspicious.

    Raises:
        ConfigError: No folder is given.
        DataError: Shards or annotations cannot be read, or classes differ.
    """
    return examine(folders, pixels=pixels, access=access, console=console).findings


def examine(
    folders: Sequence[str | Path],
    *,
    pixels: bool = True,
    access: Access | None = None,
    console: Console | None = None,
) -> Examination:
    """Do the same, and return the counts too."""
    if not folders:
        raise ConfigError("give a folder of shards to check")
    console = console or open_console(quiet=True)
    sets = tuple(ShardSet.open(folder, access) for folder in folders)
    tallies = tuple(_tally(shards, console) for shards in sets)
    found = [one for shards, tally in zip(sets, tallies, strict=True) for one in tally.find(shards.source)]
    found += _find_differing_classes(sets)
    copies = find_copies(sets)
    found += describe_pairs(sets, copies, same_bytes=True)
    if pixels:
        places = Places([len(shards) for shards in sets])
        prints, unreadable = _look_at_all(sets, places, console)
        found += unreadable
        found += describe_pairs(sets, find_look_alikes(prints, places, copies), same_bytes=False)
    return Examination(sets, tallies, sort_findings(found))


def _look_at_all(
    sets: Sequence[ShardSet], places: Places, console: Console
) -> tuple[Fingerprints, list[Finding]]:
    """Decode every image; return the fingerprints, and a finding per set with images that cannot be read."""
    prints, found = Fingerprints.allocate(int(places.begins[-1])), []
    for begin, shards in zip(places.begins.tolist(), sets, strict=False):
        count, shown = 0, []
        for row, seen in _read_all(shards, _look, shards.index.image_length.tolist(), "images", console):
            if isinstance(seen, Fingerprint):
                prints.put(begin + row, seen)
                continue
            count += 1
            shown = [*shown, str(seen)][:SHOWN]
        if count:
            text = f"{plural(count, 'image')} cannot be read: convert the dataset again"
            found.append(Finding("unreadable_images", "warning", shards.source, count, text, tuple(shown)))
    return prints, found


def _look(shards: ShardSet, row: int) -> Fingerprint | DataError:
    try:
        return fingerprint(shards, row)
    except DataError as error:
        return error


def _tally(shards: ShardSet, console: Console) -> LabelTally:
    tally = LabelTally(shards.categories)
    lengths = shards.index.annotation_length.tolist()
    for _, annotation in _read_all(shards, ShardSet.read_annotation, lengths, "annotations", console):
        tally.add(annotation)
    return tally


def _read_all(
    shards: ShardSet,
    read: Callable[[ShardSet, int], T],
    lengths: Sequence[int],
    what: str,
    console: Console,
) -> Iterator[tuple[int, T]]:
    """Yield (row, read(shards, row)) in order, a block of rows at a time in threads."""
    with show_progress(what, sum(lengths), console) as advance, ThreadPoolExecutor(4) as pool:
        for begin in range(0, len(shards), _BLOCK):
            rows = range(begin, min(begin + _BLOCK, len(shards)))
            shards.will_read(rows)
            for row, result in zip(rows, pool.map(lambda row: read(shards, row), rows), strict=True):
                yield row, result
                advance(lengths[row])


def _find_differing_classes(sets: Sequence[ShardSet]) -> list[Finding]:
    first = sets[0]
    return [
        Finding(
            "classes_differ",
            "warning",
            f"{first.source} and {other.source}",
            len(set(first.categories.names) ^ set(other.categories.names)),
            "they do not have the same classes, or not under the same ids: convert them together",
        )
        for other in sets[1:]
        if other.categories != first.categories
    ]
