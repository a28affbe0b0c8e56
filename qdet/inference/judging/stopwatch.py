"""Time by stage of a detector at work."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from qdet.inference.runner import DetectorRunner, Images, Runner, SizesHW
from qdet.types import Batch, BatchDetections, Predictions

WAITING, BACKBONE, DECODER, MODEL, BOXES = "waiting for images", "backbone", "decoder", "model", "boxes"
STAGES = (WAITING, BACKBONE, DECODER, MODEL, BOXES)
"""In the order of a batch. The decoder is all that follows the backbone; an exported graph is `model`."""


@dataclass
class Stopwatch:
    """Adds up seconds by stage; waits for the GPU before it looks at the clock."""

    device: torch.device
    _total: Counter[str] = field(default_factory=Counter)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage so far."""
        return {stage: float(self._total[stage]) for stage in STAGES if stage in self._total}

    def now(self) -> float:
        """Seconds on a clock that only grows."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds, fewer than none to take some away."""
        self._total[stage] += seconds  # pyright: ignore[reportArgumentType]

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        begin = self.now()
        yield
        self.add(stage, self.now() - begin)

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on; the wait for each is a stage."""
        iterator = iter(batches)
        while True:
            with self.time(WAITING):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


@dataclass(frozen=True)
class TimedRunner:
    """A runner whose stages are timed."""

    runner: Runner
    watch: Stopwatch

    @property
    def device(self) -> torch.device:
        """That of the model."""
        return self.runner.device

    def __call__(self, images: Images, sizes_hw: SizesHW, original_hw: SizesHW) -> BatchDetections:
        """Detect in a batch."""
        if not isinstance(self.runner, DetectorRunner):
            with self.watch.time(MODEL):
                return self.runner(images, sizes_hw, original_hw)
        with self.watch.time(BOXES):
            timed = replace(self.runner, forward=_TimedForward(self.runner, self.watch))
            return timed(images, sizes_hw, original_hw)


@dataclass(frozen=True)
class _TimedForward:
    """A detector's forward pass, the backbone apart from what follows, and taken off the boxes' time."""

    runner: DetectorRunner
    watch: Stopwatch

    def __call__(
        self, images: UInt8[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]
    ) -> tuple[Predictions, ...]:
        backbone, at = self.runner.detector.backbone, list[float]()
        begin = self.watch.now()
        hooks = (
            backbone.register_forward_pre_hook(lambda *_: at.append(self.watch.now())),
            backbone.register_forward_hook(lambda *_: at.append(self.watch.now())),
        )
        try:
            found = self.runner.forward(images, sizes_hw)
        finally:
            for hook in hooks:
                hook.remove()
        whole, inside = self.watch.now() - begin, at[-1] - at[0]
        for stage, seconds in ((BACKBONE, inside), (DECODER, whole - inside), (BOXES, -whole)):
            self.watch.add(stage, seconds)
        return found
