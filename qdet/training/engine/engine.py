"""The contract of an engine: it runs a detector in the job's precision and updates its weights."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from qdet.training.distributed import World
from qdet.training.engine.sharded_state import ShardedState
from qdet.types import ExtraQueries


class Engine(ABC):
    """One detector, its optimizer and the ranks that train it. All methods are collective.

    `module` is the detector itself; call the engine, not the module, to get the job's precision.
    """

    module: nn.Module
    world: World
    state: ShardedState
    """This rank's part of weights and moments."""
    loss_divisor: int
    """What `backward` divides a loss by before it computes gradients."""

    @abstractmethod
    def __call__(self, *inputs: Tensor | ExtraQueries) -> Any:
        """Run the detector in the job's precision."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch; `step` takes the mean over ranks and micro-batches."""

    @abstractmethod
    def step(self, lr_factor: float) -> Tensor | None:
        """End a micro-batch; after the last of a step, update the weights.

        Returns:
            The L2 norm of the whole gradient before clipping, a scalar on the device. If it is not finite,
            which all ranks see, no rank has changed weights or AdamW's state. None after other micro-batches.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forget the gradients of a step whose last backward pass is done, instead of its last `step`."""

    def release(self) -> None:  # noqa: B027  (most engines gather none)
        """Drop weights of other ranks that a pass without `backward` has gathered; gradients stay."""

    def train(self) -> None:
        """Switch to training mode."""
        self.module.train()

    def eval(self) -> None:
        """Switch to evaluation mode."""
        self.module.eval()
