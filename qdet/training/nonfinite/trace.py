"""Run a step again, slowly, to find the first non-finite number.

Hooks on every module of a detector note the range of its output and of the gradient at its output. The first
bad layer is the module whose inputs were all finite and whose output was not. If the whole forward pass is
finite, it is the module that got finite gradients at its output and computed non-finite ones for its inputs
or parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qdet.detectors.detector import Detector
from qdet.errors import DivergedError
from qdet.layers.denoising.apply import denoise_batch
from qdet.losses import SetLoss
from qdet.training.nonfinite.hooks import FirstBad, Layer, Watch
from qdet.types import Batch


@dataclass
class Trace:
    """What one worker's share of a step went through."""

    layers: list[Layer] = field(default_factory=list)
    """Modules of the last pass, in the order in which they finished."""
    losses: list[float] = field(default_factory=list)
    """Loss of every pass."""
    first_bad: FirstBad | None = None
    """None if everything was finite."""
    micro_batch: int = 0
    """The last pass: the bad one, if there was one."""


def trace_step(
    detector: Detector,
    criterion: SetLoss,
    batches: Sequence[Batch],
    *,
    divisors: Mapping[str, float],
    random_seed: int,
    precision: str,
    reseed: bool = False,
) -> Trace:
    """Make the passes of a step until something is not finite.

    `detector` must be a copy: it is left in training mode and with gradients. With `reseed` every pass has
    a seed of its own, one more than that of the pass before.
    """
    trace = Trace()
    detector.train()
    detector.recompute = False  # hooks would see every stage twice
    torch.manual_seed(random_seed)
    device = next(detector.parameters()).device
    for number, batch in enumerate(batches):
        trace.micro_batch = number
        if reseed:
            torch.manual_seed(random_seed + number)
        here = batch.to(device)
        with Watch(detector, images=len(batch)) as watch:
            loss = _make_pass(detector, criterion, here, divisors, precision, watch)
        trace.layers, trace.first_bad = watch.layers, watch.first_bad
        trace.losses.append(loss)
        if trace.first_bad is not None:
            return trace
    norm = _norm(detector)
    if not torch.isfinite(norm):
        trace.first_bad = FirstBad("the norm of the whole gradient, all of whose numbers are finite")
    return trace


def _make_pass(
    detector: Detector,
    criterion: SetLoss,
    batch: Batch,
    divisors: Mapping[str, float],
    precision: str,
    watch: Watch,
) -> float:
    extra, truth = denoise_batch(detector.denoising, batch, criterion.classes)
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        stages = detector(batch.images, batch.sizes_hw, *([] if extra is None else [extra]))
    try:
        total = criterion(stages, batch.targets, batch.sizes_hw, truth=truth, **divisors).total
    except DivergedError:  # matching rejects non-finite predictions
        total = torch.full((), float("nan"))
    if watch.first_bad is None and not torch.isfinite(total):
        watch.first_bad = FirstBad("the loss, whose predictions are all finite")
    if watch.first_bad is None:
        total.backward()
    return float(total.detach())


def _norm(module: nn.Module) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
