"""Means of gradients over ranks, in buckets that are exchanged while the backward pass still runs.

Buckets hold the same parameters in every step of every run, so that a resumed run adds the same numbers in
the same order. `DistributedDataParallel` forms its buckets anew, by order of arrival, after the first step
of each process, and needs every parameter to get a gradient on every rank.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 25 * 2**20
"""Bytes that a bucket holds at most, unless a single parameter is larger."""


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    missing: int = 0
    """Parameters whose gradient is still to come in this step."""
    flat: Tensor | None = None
    work: Any = None


class GradientSums:
    """Sums the gradients of `parameters` over all ranks, bucket by bucket.

    The last parameters come first, as gradients arrive in that order. All ranks exchange the buckets in one
    order, each as soon as it and those before it are complete. A gradient that a rank does not have counts as
    zero.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, most: int = BUCKET) -> None:
        self._buckets = [_Bucket(held) for held in cut_into_buckets(parameters, most=most)]
        self._place = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        self._armed, self._sent = False, 0
        for parameter in self._place:
            parameter.register_post_accumulate_grad_hook(self._arrive)

    def arm(self) -> None:
        """Exchange the gradients of the next backward pass."""
        self._armed, self._sent = True, 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def send_rest(self) -> None:
        """Exchange what is left once the backward pass is done: buckets with gradients that did not come."""
        while self._sent < len(self._buckets):
            self._send(self._buckets[self._sent])

    def finish(self) -> None:
        """Wait until every gradient is the sum over the ranks."""
        self.send_rest()
        for bucket in self._buckets:
            bucket.work.wait()
            assert bucket.flat is not None
            pieces = bucket.flat.split([p.numel() for p in bucket.parameters])
            for parameter, piece in zip(bucket.parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
            bucket.flat = bucket.work = None
        self._armed = False

    def _arrive(self, parameter: Tensor) -> None:
        if not self._armed:
            return
        self._place[parameter].missing -= 1  # type: ignore[index]  # the hook passes the parameter itself
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            self._send(self._buckets[self._sent])

    def _send(self, bucket: _Bucket) -> None:
        bucket.flat = torch.cat([fill_gradient(p).flatten() for p in bucket.parameters])
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)
        self._sent += 1


def fill_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of `parameter`: zero, as DeepSpeed has it, where no backward pass reached it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def cut_into_buckets(parameters: Iterable[nn.Parameter], *, most: int) -> list[list[nn.Parameter]]:
    """Group parameters, the last first, into buckets of `most` bytes."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(list(parameters)):
        size = parameter.numel() * parameter.element_size()
        if not buckets or size > room:
            buckets.append([])
            room = most
        buckets[-1].append(parameter)
        room -= size
    return buckets
