"""Sums over one fixed tree: which numbers are added to which does not depend on who holds them.

The leaves are the micro-batches of a step, 0 to n - 1. A node over the leaves from `first` to `last` - 1 adds
the node of its first half to that of its second. Each rank holds consecutive leaves and adds up the nodes
that lie within them. Any other node is added by the rank that holds its first leaf; the rank that holds the
first leaf of its second half sends that half.
"""

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

Vector = Float[Tensor, " n"]
Node = tuple[int, int, int]
"""First leaf, first leaf of the second half, and the leaf after the last."""
Send = Callable[[Vector, int], None]
"""Sends numbers to a rank."""
Receive = Callable[[int], Vector]
"""Waits for numbers from a rank."""


class TreeSum:
    """The sum of one vector per leaf over all ranks, of which each holds as many consecutive leaves.

    Args:
        leaves: How many there are on all ranks together, a multiple of `size`.
        rank: This one.
        size: How many ranks there are.
        send: Sends a vector to another rank.
        receive: Receives one.
    """

    def __init__(self, leaves: int, *, rank: int, size: int, send: Send, receive: Receive) -> None:
        self._each, self._rank, self._send, self._receive = leaves // size, rank, send, receive
        self._nodes = list(_nodes(0, leaves))
        self._known = frozenset(self._nodes)
        self.clear()

    def clear(self) -> None:
        """Forget the leaves of this step."""
        self._next = self._rank * self._each
        self._held: list[tuple[int, int, Vector]] = []  # neighbours, by their first leaf

    def add(self, values: Vector) -> None:
        """Take the values of this rank's next leaf, which is changed from now on."""
        self._held.append((self._next, self._next + 1, values))
        self._next += 1
        while len(self._held) > 1 and (*self._pair(), self._held[-1][1]) in self._known:
            (first, _, left), (_, last, right) = self._held[-2:]
            self._held[-2:] = [(first, last, left.add_(right))]

    def finish(self) -> Vector | None:
        """Send and add what is held until one rank has all; return the sum on rank 0, else None."""
        held = {first: values for first, _, values in self._held}
        for first, middle, last in self._nodes:
            here, there = self._owner(first), self._owner(middle)
            if here == self._owner(last - 1):
                continue  # it lies within one rank, which has added it up
            if here == there == self._rank:
                held[first].add_(held.pop(middle))
            elif here == self._rank:
                held[first].add_(self._receive(there))
            elif there == self._rank:
                self._send(held.pop(middle), here)
        self.clear()
        return held.get(0)

    def _pair(self) -> tuple[int, int]:
        return self._held[-2][0], self._held[-1][0]

    def _owner(self, leaf: int) -> int:
        return leaf // self._each


def _nodes(first: int, last: int) -> Iterator[Node]:
    """Yield the nodes over some leaves, each after those that it adds."""
    if last - first > 1:
        middle = (first + last + 1) // 2
        yield from _nodes(first, middle)
        yield from _nodes(middle, last)
        yield first, middle, last
