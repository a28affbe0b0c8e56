"""Deformable DETR's table of complexities: what the counter says of each attention, as a formula.

C width   M heads   L levels   K points   N queries   T = H W cells
"""

import pytest
import torch
from torch import nn

from qdet.detectors.complexity import count_macs
from qdet.layers.attention.deformable import DeformableSelfAttention
from qdet.layers.attention.multi_head import CrossAttention, SelfAttention
from qdet.layers.token_levels import cell_centers, token_levels
from qdet.types import PaddedSizes

C, N = 64, 30
MAPS = ((5, 7), (10, 14), (20, 28))


def encoder_self(height: int, width: int) -> int:
    x = torch.empty(1, height * width, C)
    return count_macs(SelfAttention(C, heads=8), x, x)


def decoder_cross(height: int, width: int) -> int:
    queries, memory = torch.empty(1, N, C), torch.empty(1, height * width, C)
    return count_macs(CrossAttention(C, heads=8), queries, queries, memory, memory)


class OneLevel(nn.Module):
    """Deformable attention among the cells of one map."""

    def __init__(self, height: int, width: int, points: int) -> None:
        super().__init__()
        self.attention = DeformableSelfAttention(C, heads=8, levels=1, points=points)
        sizes = PaddedSizes(torch.tensor([[32 * height, 32 * width]]), (32 * height, 32 * width))
        self.levels = token_levels([torch.empty(1, C, height, width)], sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, cell_centers(self.levels), self.levels)


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_encoders_attention_grows_with_the_square_of_cells(height, width):
    """O(H^2 W^2 C): four products of T C^2, and two of T^2 C that outweigh them on large maps."""
    cells = height * width
    assert encoder_self(height, width) == 4 * cells * C**2 + 2 * cells**2 * C


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_decoders_cross_attention_grows_with_cells(height, width):
    """O(H W C^2 + N H W C)."""
    cells = height * width
    assert decoder_cross(height, width) == 2 * cells * C**2 + 2 * N * C**2 + 2 * N * cells * C


@pytest.mark.parametrize("queries", [10, 100, 300])
def test_decoders_self_attention_does_not_know_of_the_image(queries):
    """O(2 N C^2 + N^2 C), up to constant factors."""
    x = torch.empty(1, queries, C)
    assert count_macs(SelfAttention(C, heads=8), x, x) == 4 * queries * C**2 + 2 * queries**2 * C


@pytest.mark.parametrize(("height", "width"), MAPS)
@pytest.mark.parametrize("points", [1, 4])
def test_deformable_attention_is_linear_in_cells(height, width, points):
    """2 T C^2 for values and outputs and 3 M K T C for offsets and weights; sampling is not counted."""
    cells = height * width
    module = OneLevel(height, width, points).to("cpu")
    assert count_macs_on_cpu(module, cells) == 2 * cells * C**2 + 3 * 8 * points * cells * C


def count_macs_on_cpu(module: nn.Module, cells: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(torch.empty(1, cells, C))
    return counter.get_total_flops() // 2
