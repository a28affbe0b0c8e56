"""A detection head: class logits of a query, and its box as a step away from a reference.

B images   N queries   K classes   D width
"""

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.heads import BoxHead, sigmoid_class_head
from qdet.layers.reference_points import boxes_from


class DetectionHead(nn.Module):
    """A linear layer for classes, a perceptron for boxes; fresh, it scores `PRIOR` and moves no reference."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.class_head = sigmoid_class_head(dim, classes)
        self.box_head = BoxHead(dim)
        self.box_head.start_at_zero()

    def forward(
        self, x: Float[Tensor, "B N D"], reference: Float[Tensor, "B N _"]
    ) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N 4"]]:
        """Return logits, and boxes (x, y, w, h) as shares of the image, where the reference is too."""
        return self.class_head(x), boxes_from(self.box_head(x), reference)
