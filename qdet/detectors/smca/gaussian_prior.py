"""A Gaussian prior on attention: log-Gaussian maps added to a query's attention logits.

Gao et al.: Fast Convergence of DETR with Spatially Modulated Co-Attention, ICCV 2021,
https://arxiv.org/abs/2101.07448, section 3. Where the paper and the authors' code
(gaopengcuhk/SMCA-DETR) differ, this is the code: it multiplies distances where the paper divides.

    B images   N queries   M maps of a query: one per head, or 1   h, w feature map   K = h w cells
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qdet.layers.heads import Head
from qdet.layers.precision import fp32_island

Sharpness = Literal["fixed", "one", "independent", "product"]
"""Predicted sharpness of a map: none, one number, one each for x and y, or a third for the product of both
distances."""

NUMBERS: dict[Sharpness, int] = {"fixed": 0, "one": 1, "independent": 2, "product": 3}
SMOOTHNESS = 8.0
"""Divides squared distances: beta in the paper."""
FLOOR = -1e4
"""Floor of a map's terms: a logit that is finite in half precision, and e^-10000 anyway."""


class GaussianPrior(nn.Module):
    """Every query's maps on every level: all heads start at one centre and predict offsets and sharpness.

    Distances are in cells. Those of coarser levels weigh more, in proportion to the stride (0.5, 1 and 2 at
    strides 16, 32 and 64 in the authors' code). With `head_shared` all heads share the unmoved centre.
    """

    def __init__(
        self,
        dim: int,
        strides: Sequence[int],
        *,
        heads: int,
        sharpness: Sharpness = "independent",
        head_shared: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.maps = 1 if head_shared else heads
        count, numbers = len(self.strides) * self.maps, NUMBERS[sharpness]
        self.offset = None if head_shared else Head(dim, 2 * count)
        self.sharpness = Head(dim, numbers * count) if numbers else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors' code does: equal sharpness for all maps and queries."""
        if self.offset is not None:
            nn.init.xavier_uniform_(self.offset.weight)
        if self.sharpness is not None:
            nn.init.zeros_(self.sharpness.weight)
            nn.init.ones_(self.sharpness.bias)

    @fp32_island("geometry")
    def forward(
        self,
        guide: Float[Tensor, "B N D"],
        centers: Float[Tensor, "B N 2"],
        sizes_hw: Int[Tensor, "B 2"],
        shapes_hw: Sequence[tuple[int, int]],
    ) -> list[Float[Tensor, "B M N _"]]:
        """Return each level's maps, of the height and width in `shapes_hw`.

        `guide` predicts offsets and sharpness; `centers` are normalized x and y in the unpadded image.
        """
        gaussians = self.predict(guide, centers, sizes_hw)
        return [log_gaussian(*g, shape_hw) for g, shape_hw in zip(gaussians, shapes_hw, strict=True)]

    @fp32_island("geometry")
    def predict(
        self, guide: Float[Tensor, "B N D"], centers: Float[Tensor, "B N 2"], sizes_hw: Int[Tensor, "B 2"]
    ) -> list[tuple[Float[Tensor, "B M N 2"], Float[Tensor, "#B #M #N _"]]]:
        """Return each level's centres, in cells, and weights of squared distances: see `log_gaussian`."""
        pixels = (centers * sizes_hw.flip(-1).unsqueeze(1)).unsqueeze(1)
        offsets = self._by_level(self.offset, guide, default=0.0)
        factors = self._by_level(self.sharpness, guide, default=1.0)
        return [
            (pixels / stride + offset, factor.square() * (stride / 32 / SMOOTHNESS))
            for stride, offset, factor in zip(self.strides, offsets, factors, strict=True)
        ]

    def _by_level(self, head: Head | None, guide: Tensor, *, default: float) -> Sequence[Tensor]:
        """Return one [B, M, N, numbers] per level, or the `default` where nothing is predicted."""
        if head is None:
            return [guide.new_full((1, 1, 1, 2), default)] * len(self.strides)
        return head(guide).unflatten(-1, (len(self.strides), self.maps, -1)).transpose(1, 3).unbind(2)


@fp32_island("geometry")
def log_gaussian(
    centers: Float[Tensor, "B M N 2"], weights: Float[Tensor, "#B #M #N _"], shape_hw: tuple[int, int]
) -> Float[Tensor, "B M N K"]:
    """Return -(a (x - c_x)^2 + b (y - c_y)^2) for the whole numbers x and y of every cell.

    `weights` are a and b, one number for both, or a, b and that of the product of both squares. Rows and
    columns are computed separately; only one or two sums have the size of the map.
    """
    height, width = shape_hw
    if weights.shape[-1] == 1:
        weights = weights.expand(*weights.shape[:-1], 2)
    a, b, *product = weights.split(1, dim=-1)
    x = torch.arange(width, device=centers.device).to(centers.dtype)
    y = torch.arange(height, device=centers.device).to(centers.dtype)
    dx, dy = (centers[..., :1] - x).square(), (centers[..., 1:] - y).square()
    columns = (-a * dx).clamp(min=FLOOR / 2).unsqueeze(-2)  # [B, M, N, 1, w]
    rows = (-b * dy).clamp(min=FLOOR / 2).unsqueeze(-1)  # [B, M, N, h, 1]
    total = rows + columns
    for c in product:
        total = (total - (c * dx).unsqueeze(-2) * dy.unsqueeze(-1)).clamp(min=FLOOR)
    return total.flatten(-2)
