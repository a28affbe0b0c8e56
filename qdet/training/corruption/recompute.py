"""The gradient of a micro-batch, twice: a digest of the training's own, and one computed again on its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from qdet.checkpoint.tensor_digest import combine, digest
from qdet.detectors.detector import Detector
from qdet.errors import DivergedError
from qdet.layers.denoising.apply import denoise_batch
from qdet.losses import SetLoss
from qdet.training.nonfinite.record import batch_of, tensors_of
from qdet.training.nonfinite.skip import nan_grad_if_nonfinite, nonfinite_loss
from qdet.types import Batch


@dataclass(frozen=True)
class MicroBatch:
    """What a gradient is computed from, besides the weights."""

    batch: Batch
    random: Mapping[str, Tensor]
    """States of torch's generators before the forward pass."""

    def to_bytes(self) -> bytes:
        """Return it for another rank."""
        tensors = {f"batch/{name}": tensor for name, tensor in tensors_of(self.batch).items()}
        tensors |= {f"random/{name}": state for name, state in self.random.items()}
        return save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})

    @classmethod
    def from_bytes(cls, content: bytes) -> "MicroBatch":
        """Read it."""
        tensors = load(content)
        batch, random = (
            {k.removeprefix(kind): t for k, t in tensors.items() if k.startswith(kind)}
            for kind in ("batch/", "random/")
        )
        return cls(batch_of(batch), random)


def read_random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that a forward pass on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


class GradientWatch:
    """The digest of the gradients of one backward pass, parameter by parameter as they arrive.

    Args:
        parameters: Whose gradients.
        drop: Whether a gradient is dropped once it is digested: what goes on is zero and takes no memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, drop: bool = False) -> None:
        self._parameters, self._drop = parameters, drop
        self._found: dict[int, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Digest what arrives inside a `with`."""
        self._found = {}
        handles = [p.register_hook(self._take(i)) for i, p in enumerate(self._parameters)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self) -> int:
        """Return the digest of all of them; this waits for the device."""
        return _combine([self._found.get(i) for i in range(len(self._parameters))])

    def _take(self, index: int) -> Callable[[Tensor], Tensor | None]:
        def take(gradient: Tensor) -> Tensor | None:
            self._found[index] = digest(gradient)
            return gradient.new_zeros(()).expand_as(gradient) if self._drop else None

        return take


def compute_again(
    detector: Detector,
    criterion: SetLoss,
    micro_batch: MicroBatch,
    *,
    divisors: Mapping[str, float],
    loss_divisor: int,
    bf16: bool,
) -> int:
    """Return the digest of the gradient of a micro-batch; neither gradients nor random numbers change.

    Args:
        detector: In training mode. With ZeRO-3 all ranks call this at the same time, for one micro-batch.
        criterion: The loss.
        micro_batch: Images, objects, random numbers.
        divisors: What losses are divided by, as arguments of the loss.
        loss_divisor: What the engine divides a loss by.
        bf16: Whether the engine uses autocast.
    """
    parameters = [p for p in detector.parameters() if p.requires_grad]
    device = next(detector.parameters()).device
    watch = GradientWatch(parameters, drop=True)
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        torch.set_rng_state(micro_batch.random["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(micro_batch.random["cuda"], device)
        loss = _compute_loss(detector, criterion, micro_batch.batch.to(device), divisors, bf16=bf16)
        with watch.watching():
            torch.autograd.grad(loss / loss_divisor, parameters, allow_unused=True)
    return watch.read()


def _compute_loss(
    detector: Detector, criterion: SetLoss, batch: Batch, divisors: Mapping[str, float], *, bf16: bool
) -> Tensor:
    extra, truth = denoise_batch(detector.denoising, batch, criterion.classes)
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bf16):
        stages = detector(batch.images, batch.sizes_hw, *([] if extra is None else [extra]))
    try:
        losses = criterion(stages, batch.targets, batch.sizes_hw, truth=truth, **divisors)
    except DivergedError:
        losses = nonfinite_loss(stages)
    return nan_grad_if_nonfinite(losses.total)


def _combine(digests: Sequence[Tensor | None]) -> int:
    """Return one digest of those of all parameters; one without a gradient counts as 0."""
    device = next((d.device for d in digests if d is not None), torch.device("cpu"))
    none = torch.zeros((), dtype=torch.int64, device=device)
    return int(combine(none if d is None else d for d in digests))
