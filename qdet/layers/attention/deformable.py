"""Multi-scale deformable attention: every query samples a few points of its own choice on every level.

Deformable DETR (Zhu et al., ICLR 2021, https://arxiv.org/abs/2010.04159), section 4.1, on torch's
`grid_sample`.

    B images   N queries   T tokens of all levels   M heads   L levels   K points   D width   d = D / M
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.kernels.deformable_attention import deformable_attention, deformable_attention_runs
from qdet.kernels.level_table import LevelTable
from qdet.layers.attention.multi_head import check_heads
from qdet.layers.bilinear import interpolate_at
from qdet.layers.precision import fp32_island
from qdet.layers.token_levels import TokenLevels
from qdet.layers.weighted_rows import corner_cells, rows_are_faster, sum_rows


class DeformableAttention(nn.Module):
    """W_o [sum_lk A_mlk V_ml(p_mlk)]_m, where offsets and weights A are linear in the query.

        p_mlk = p_ql + dp_mlk / (w_l, h_l)            around a reference point p_q
        p_mlk = p_ql + dp_mlk / K * (w_q, h_q) / 2    around a reference box of that width and height

    A is a softmax over all levels and points at once. Tokens under the padding, and everything outside
    the maps, read zero. `points` are samples per head and level.
    """

    def __init__(self, dim: int, *, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Point each head in its own direction, one cell further per point, with equal weights.

        Directions lie on a square rather than a circle, as in the authors' code.
        """
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            start = self.sampling_offsets.bias.view(self.heads, self.levels, self.points, 2)
            angles = torch.arange(self.heads, device=start.device) * (math.tau / self.heads)
            directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
            directions /= directions.abs().amax(-1, keepdim=True)
            steps = torch.arange(1, self.points + 1, device=start.device)
            start.copy_(directions[:, None, None] * steps[:, None])

    def forward(
        self,
        query: Float[Tensor, "B N D"],
        reference: Float[Tensor, "B N _"],
        memory: Float[Tensor, "B T D"],
        levels: TokenLevels,
    ) -> Float[Tensor, "B N D"]:
        """Return what every query gathers around its reference point (x, y) or box (x, y, w, h).

        References are normalized coordinates of the unpadded image.
        """
        value = self.value(memory).masked_fill(levels.mask.unsqueeze(-1), 0)
        points, weights = self.choose_points(query, reference, levels)
        table = LevelTable(levels.shapes_hw, (1,) * len(levels.shapes_hw))
        if deformable_attention_runs(value, table, heads=self.heads):
            return self.out(deformable_attention(value, points, weights, table))
        return self.out(gather_points(value, points, weights, levels))

    def choose_points(
        self, query: Float[Tensor, "B N D"], reference: Float[Tensor, "B N _"], levels: TokenLevels
    ) -> tuple[Float[Tensor, "B N M L K 2"], Float[Tensor, "B N M L K"]]:
        """Return where every query samples, in normalized coordinates of each padded map, and the weights."""
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))
        logits = self.attention_weights(query).unflatten(-1, shape)
        return sampling_locations(reference, offsets, levels), joint_softmax(logits)


class DeformableSelfAttention(nn.Module):
    """Deformable attention of tokens to each other; a token's reference point is its own cell's centre."""

    def __init__(self, dim: int, *, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads=heads, levels=levels, points=points)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        position: Float[Tensor, "B T D"],
        reference: Float[Tensor, "B T 2"],
        levels: TokenLevels,
    ) -> Float[Tensor, "B T D"]:
        """Return the update of `x`; positions enter queries, not values."""
        return self.attention(x + position, reference, x, levels)


class DeformableCrossAttention(nn.Module):
    """Deformable attention of queries to the tokens of an image."""

    def __init__(self, dim: int, *, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads=heads, levels=levels, points=points)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        position: Float[Tensor, "B N D"],
        reference: Float[Tensor, "B N _"],
        memory: Float[Tensor, "B T D"],
        levels: TokenLevels,
    ) -> Float[Tensor, "B N D"]:
        """Return the update of `x`."""
        return self.attention(x + position, reference, memory, levels)


@fp32_island("sampling")
def sampling_locations(
    reference: Float[Tensor, "B N _"], offsets: Float[Tensor, "B N M L K 2"], levels: TokenLevels
) -> Float[Tensor, "B N M L K 2"]:
    """Place points, in normalized coordinates of each padded map, at offsets from a reference."""
    share = levels.inside_share[:, None]  # [B, 1, L, 2]
    center = (reference[:, :, None, :2] * share)[:, :, None, :, None]  # [B, N, 1, L, 1, 2]
    if reference.shape[-1] == 2:
        return center + offsets / levels.extent_wh[:, None]
    size = (reference[:, :, None, 2:] * share)[:, :, None, :, None]
    return center + offsets / offsets.shape[-2] * size * 0.5


@fp32_island("sampling")
def joint_softmax(logits: Float[Tensor, "B N M L K"]) -> Float[Tensor, "B N M L K"]:
    """Apply one softmax over the points of all levels."""
    return logits.flatten(-2).softmax(-1).view_as(logits)


@fp32_island("sampling")
def gather_points(
    value: Float[Tensor, "B T D"],
    points: Float[Tensor, "B N M L K 2"],
    weights: Float[Tensor, "B N M L K"],
    levels: TokenLevels,
) -> Float[Tensor, "B N D"]:
    """Interpolate each head's values at its points and sum them by weight.

    The backward pass needs all samples: L K D numbers per query, which recomputing a layer saves.
    """
    if rows_are_faster(value):
        return _gather_rows(value, points, weights, levels)
    images, _, heads = points.shape[:3]
    grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)  # [B M, N, L, K, 2]: a head is an image of its own
    shares = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # [B M, 1, N, L, K]
    total = value.new_zeros(())
    for level, cells in enumerate(levels.split(value)):  # [B, h, w, D]
        maps = cells.unflatten(-1, (heads, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B M, d, h, w]
        sampled = interpolate_at(maps, grid[:, :, level])
        total = total + (sampled * shares[:, :, :, level]).sum(-1)  # [B M, d, N]
    return total.unflatten(0, (images, heads)).flatten(1, 2).mT


def _gather_rows(
    value: Float[Tensor, "B T D"],
    points: Float[Tensor, "B N M L K 2"],
    weights: Float[Tensor, "B N M L K"],
    levels: TokenLevels,
) -> Float[Tensor, "B N D"]:
    """Gather as `gather_points` does, in one sum of rows."""
    images, queries, heads, _, count = weights.shape
    by_level = points.permute(5, 3, 0, 1, 2, 4).flatten(2)  # [2, L, B N M K]
    x, y = by_level * levels.extent_wh.to(value.dtype).T.unsqueeze(-1) - 0.5
    cells, shares = corner_cells(x, y, levels.shapes_hw)  # [4, L, B N M K]
    shares = shares * weights.movedim(3, 0).flatten(1)
    image = torch.arange(images, dtype=torch.int32).view(-1, 1, 1, 1) * (value.shape[1] * heads)
    head = torch.arange(heads, dtype=torch.int32).view(-1, 1)
    first = (image + head).expand(images, queries, heads, count).reshape(-1)
    terms = ((cells * heads + first), shares)
    rows, shares = (t.unflatten(-1, (-1, count)).movedim(2, 0).flatten(1).contiguous() for t in terms)
    table = value.unflatten(-1, (heads, -1)).flatten(0, 2)  # [B T M, d]
    return sum_rows(table, rows, shares).view(images, queries, -1)
