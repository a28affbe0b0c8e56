"""Recording: what modules compute in one forward pass, read by hooks that change no number."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Watch:
    """A module, and what to keep of a call of it."""

    module: nn.Module
    capture: Callable[[tuple[Any, ...], Any], Any]
    """Of the positional inputs and the output; runs inside the forward pass, hence in its precision."""


@contextmanager
def recording(watches: Sequence[Watch]) -> Iterator[list[Any]]:
    """Yield a list that a forward pass inside the block fills with what each watch keeps of the last call."""
    kept: list[Any] = [None] * len(watches)
    with ExitStack() as hooks:
        for place, watch in enumerate(watches):
            hooks.callback(_install(watch, kept, place))
        yield kept


def _install(watch: Watch, kept: list[Any], place: int) -> Callable[[], None]:
    def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        kept[place] = watch.capture(inputs, output)

    return watch.module.register_forward_hook(keep).remove
