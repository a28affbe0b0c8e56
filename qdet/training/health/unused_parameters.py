"""Parameters that get no gradient in a step are reported.

A parameter that gets none on any worker silently learns nothing. If it gets none on some workers only, their
collectives differ, which ends in a crash or a hang. And ZeRO-3 of DeepSpeed 0.19 keeps each parameter's last
gradient in a buffer and applies it again in every step that brings no new one, so there it is an error.
"""

import socket
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qdet.errors import ConfigError

LISTED = 5
"""Names in a message; the others are counted."""


class UnusedParameters:
    """Finds the trainable parameters of `module` that a backward pass does not reach.

    Args:
        module: The detector.
        rank: Rank of this worker, for messages.
        required: Whether every parameter must get a gradient (ZeRO-3).
    """

    def __init__(self, module: nn.Module, *, rank: int, required: bool) -> None:
        trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.rank, self.required = rank, required
        self.names = [name for name, _ in trained]
        self._reached = [False] * len(trained)
        self._missing: list[str] = []
        self._reported: set[str] = set()
        self._handles = [
            p.register_post_accumulate_grad_hook(self._mark(i)) for i, (_, p) in enumerate(trained)
        ]

    def watch(self, loss: Tensor) -> Tensor:
        """Return `loss`, whose backward pass is then watched.

        Unused parameters are printed at the end of the pass but before gradients are exchanged, where
        workers that differ in them crash.
        """
        if loss.requires_grad:
            loss.register_hook(self._begin)
        return loss

    def check(self) -> None:
        """Call after the backward pass.

        Raises:
            ConfigError: A parameter got no gradient and all are required to.
        """
        if self._missing and self.required:
            raise ConfigError(
                f"--train.zero 3: {self._describe(self._missing)}. DeepSpeed would apply its last gradient "
                "again, in every step that brings no new one. Let it take part in every step, freeze it, or "
                "use --train.zero 2"
            )

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _mark(self, index: int) -> Callable[[Tensor], None]:
        def mark(_: Tensor) -> None:
            self._reached[index] = True

        return mark

    def _begin(self, _: Tensor) -> None:
        self._reached = [False] * len(self.names)
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def _end(self) -> None:
        self._missing = [n for n, reached in zip(self.names, self._reached, strict=True) if not reached]
        if news := [name for name in self._missing if name not in self._reported]:
            self._reported |= set(news)
            print(f"{self._describe(news)}; it does not learn from this step", flush=True)

    def _describe(self, names: list[str]) -> str:
        few = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        return f"no gradient reached {few} on worker {self.rank} (host {socket.gethostname()})"
