"""Who is wrong where two computations of one gradient differ, or copies of one state do: pure functions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Which ranks gave another result than most."""

    suspects: tuple[int, ...]
    """In rising order. Where there is no majority, all that may be wrong."""
    decided: bool
    """Whether most agree, so that the suspects are wrong."""
    lasting: bool
    """Whether results still differ when computed again, by a broken chip or wrong weights."""


def settle(checked: int, first: int, second: Mapping[int, int], again: Sequence[int]) -> Verdict:
    """Judge digests of a gradient that differ, by what all ranks get when they compute it again.

    Args:
        checked: The rank that was checked.
        first: Its digest.
        second: Digests by the ranks that checked it.
        again: Digests of all ranks, which computed the same micro-batch.
    """
    votes = again if len(again) > 1 else (first, *second.values(), *again)
    truth = find_majority(votes)
    if truth is None:
        unsure = {checked, *second} if len(again) < 3 else range(len(again))
        return Verdict(tuple(sorted(unsure)), decided=False, lasting=True)
    wrong = {rank for rank, digest in ((checked, first), *second.items()) if digest != truth}
    still = {rank for rank, digest in enumerate(again) if digest != truth}
    return Verdict(tuple(sorted(wrong | still)), decided=True, lasting=bool(still))


def find_changed(kept: Sequence[int]) -> Verdict | None:
    """Judge ranks by whether each one's own state is what it was (1) or not (0); None where all are."""
    changed = tuple(rank for rank, same in enumerate(kept) if not same)
    return Verdict(changed, decided=True, lasting=True) if changed else None


def find_odd(digests: Sequence[int]) -> Verdict | None:
    """Judge copies of one state, one per rank; None where all are equal."""
    if len(set(digests)) < 2:
        return None
    truth = find_majority(digests)
    odd = (rank for rank, digest in enumerate(digests) if digest != truth)
    return Verdict(tuple(odd), decided=truth is not None, lasting=True)


def find_majority(digests: Sequence[int]) -> int | None:
    """Return what more than half of the digests are, or None."""
    digest, count = Counter(digests).most_common(1)[0]
    return digest if 2 * count > len(digests) else None
