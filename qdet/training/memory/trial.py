"""Whether a micro-batch fits: one pass over it on a GPU, or a count of what a pass keeps on a CPU."""

import torch
from torch import Tensor, nn

from qdet.detectors.complexity import count_parameters, count_saved_bytes
from qdet.job import Job
from qdet.layers.denoising.apply import denoise_batch
from qdet.training.distributed import World
from qdet.training.engine.stage import Memory, memory_per_rank
from qdet.training.freeze import freeze
from qdet.training.memory.out_of_memory import is_out_of_memory
from qdet.types import Batch


class MeasuredTrial:
    """Makes one pass over a batch on a device, with room taken as moments and averages will take it.

    Args:
        job: What is to be trained; `train.zero` is a number.
        world: The ranks, of which this one takes part.
        classes: Of the dataset.
    """

    how = "measured"
    """How `needed` finds out."""

    def __init__(self, job: Job, world: World, classes: int) -> None:
        self._job, self._world, self._classes = job, world, classes

    def needed(self, batch: Batch) -> float | None:
        """Return the most bytes that were allocated at a time; None where an allocation failed."""
        device = self._world.device
        _start_counting(device)
        try:
            with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
                self._make_pass(batch.to(device))
            return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0.0
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            _start_counting(device)

    def _make_pass(self, batch: Batch) -> None:
        job, device = self._job, self._world.device
        detector = job.detector.build(self._classes)
        freeze(detector, job.train.freeze)
        detector.to(device).train()
        detector.recompute = job.train.activation_checkpointing
        criterion = job.loss.build(self._classes).to(device)
        state = _state(job, detector, self._world.size)
        taken = _take(state.optimizer + state.average, device)
        extra, truth = denoise_batch(detector.denoising, batch, criterion.classes)
        with torch.autocast(device.type, torch.bfloat16, enabled=job.train.precision == "bf16"):
            stages = detector(batch.images, batch.sizes_hw, *([] if extra is None else [extra]))
        losses = criterion(stages, batch.targets, batch.sizes_hw, truth=truth, normalizer=1.0, matched=1.0)
        losses.total.backward()
        del taken


class CountedTrial:
    """Counts on tensors without numbers what a forward pass keeps: on a CPU no allocation fails in time.

    What operations need only while they run, the loss and extra queries of denoising are not counted.

    Args:
        job: What is to be trained; `train.zero` is a number.
        world: The ranks.
        classes: Of the dataset.
    """

    how = "counted, as a CPU's memory cannot be measured without filling it,"

    def __init__(self, job: Job, world: World, classes: int) -> None:
        self._job, self._ranks, self._classes = job, world.size, classes

    def needed(self, batch: Batch) -> float:
        """Return the bytes of weights, gradients, moments, averages and activations."""
        job = self._job
        with torch.device("meta"):
            detector = job.detector.build(self._classes)
            freeze(detector, job.train.freeze)
            images, sizes = (
                torch.empty(batch.images.shape),
                torch.empty(batch.sizes_hw.shape, dtype=torch.int64),
            )
        detector.recompute = job.train.activation_checkpointing
        state = _state(job, detector, self._ranks)
        return state.total + count_saved_bytes(detector, images, sizes, bf16=job.train.precision == "bf16")


Trial = MeasuredTrial | CountedTrial


def _state(job: Job, detector: nn.Module, ranks: int) -> Memory:
    """Return what a rank keeps of `detector` beside activations, whatever its number of passes."""
    zero = 0 if job.train.zero == "auto" else job.train.zero
    trained = count_parameters(detector, trainable=True)
    average = job.optim.ema_decay > 0
    return memory_per_rank(
        count_parameters(detector), trained, zero=zero, ranks=ranks, average=average, passes=2
    )


def _take(size: float, device: torch.device) -> Tensor:
    return torch.empty(int(size), dtype=torch.uint8, device=device)


def _start_counting(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
