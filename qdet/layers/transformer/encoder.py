"""The encoder of DETR's family: layers of self-attention between the cells of one feature map.

B images   h, w feature map   T = h w cells   D width

Carion et al.: End-to-End Object Detection with Transformers, ECCV 2020, https://arxiv.org/abs/2005.12872,
appendix A.3.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.mlp import MLP
from qdet.layers.padding import padding_mask
from qdet.layers.position import sine_map
from qdet.layers.transformer.layers import EncoderLayer, run, xavier_matrices
from qdet.types import PaddedSizes


@dataclass(frozen=True)
class Memory:
    """What a decoder attends to: the cells of the encoded map, row by row."""

    x: Float[Tensor, "B T D"]
    """Features after all layers."""
    position: Float[Tensor, "B T D"]
    """Sine embeddings of the cells' positions."""
    mask: Bool[Tensor, "B T"]
    """True for padding."""
    shape_hw: tuple[int, int]
    """Height and width of the map."""


class SingleScaleEncoder(nn.Module):
    """Self-attention between all cells of one map; every layer adds their positions anew.

    With `scale_position` a perceptron, which all layers share, first computes from each cell a factor for
    every feature of its position, as in DAB-DETR's code. `temperatures_yx` are those of `sine_map`.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        *,
        heads: int,
        ffn: int,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        pre_norm: bool = False,
        scale_position: bool = False,
        temperatures_yx: tuple[float, float] = (10_000.0, 10_000.0),
    ) -> None:
        super().__init__()
        self.temperatures_yx = temperatures_yx
        self.layers = nn.ModuleList(
            EncoderLayer(
                SelfAttention(width, heads=heads, dropout=dropout),
                width,
                ffn,
                dropout=dropout,
                activation=activation,
                pre_norm=pre_norm,
            )
            for _ in range(layers)
        )
        self.position_scale = MLP(width, width, width, 2) if scale_position else None
        self.norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        xavier_matrices(self)

    def forward(self, x: Float[Tensor, "B D h w"], sizes: PaddedSizes, *, recompute: bool = False) -> Memory:
        """Encode a projected map; no cell attends to padding."""
        shape_hw = (x.shape[-2], x.shape[-1])
        x, position, mask = as_tokens(x, sizes, temperatures_yx=self.temperatures_yx)
        for layer in self.layers:
            scaled = position if self.position_scale is None else position * self.position_scale(x)
            x = run(layer, x, scaled, mask, recompute=recompute)
        return Memory(self.norm(x), position, mask, shape_hw)


def as_tokens(
    x: Float[Tensor, "B D h w"],
    sizes: PaddedSizes,
    *,
    temperatures_yx: tuple[float, float] = (10_000.0, 10_000.0),
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
    """Return a map's cells as tokens, sine embeddings of their positions, and the padding mask."""
    mask = padding_mask(sizes, *x.shape[-2:])
    position = sine_map(mask, x.shape[1], temperatures_yx=temperatures_yx).to(x.dtype)
    return x.flatten(2).mT, position.flatten(1, 2), mask.flatten(1)
