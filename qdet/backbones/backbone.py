"""The contract of a backbone: images in, feature maps of known channels and strides out.

B images   H, W padded height and width
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A single-device module that turns images into maps, finest first."""

    channels: Sequence[int]
    """Channels of each map."""
    strides: Sequence[int]
    """Pixels of the image per cell of each map."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the maps; one of stride s has ceil(H / s) rows and ceil(W / s) columns."""
