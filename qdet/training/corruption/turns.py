"""Whose turn it is: which rank is checked, and which checks it, in checks that are counted from 0."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """Who computes what twice in one step."""

    checked: int
    """The rank whose micro-batch is computed again."""
    checking: int
    """The rank that computes it again; the same one where there is no other."""
    number: int
    """Which of its micro-batches."""


def turn(check: int, *, ranks: int, passes: int) -> Turn:
    """Return the turn of a check: in as many checks as there are ranks each is checked once, and checks once.

    In the next round each is checked by another one, and another of its micro-batches is.
    """
    done, checked = divmod(check, ranks)
    distance = 1 + done % (ranks - 1) if ranks > 1 else 0
    return Turn(checked, (checked + distance) % ranks, done % passes)


def turn_of_step(step: int, every: int, *, ranks: int, passes: int) -> Turn | None:
    """Return the turn of the step after `step` others; None where nothing is checked in it."""
    if every < 1 or (step + 1) % every:
        return None
    return turn((step + 1) // every - 1, ranks=ranks, passes=passes)
