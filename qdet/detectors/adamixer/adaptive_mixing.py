"""Adaptive mixing: decode sampled features with an MLP-Mixer whose weights each query writes.

AdaMixer (Gao et al., CVPR 2022, https://arxiv.org/abs/2203.16507), section 3.3.

    B images   N queries   G groups   P points in   O points out   C channels per group   D query width
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.detectors.adamixer.generator import make_generator, start_alike
from qdet.layers.precision import fp32_island

MixingOrder = Literal["acm-asm", "asm-acm", "acm-acm", "asm-asm"]
"""What is mixed first and what then, channels (ACM) or points (ASM); the first is AdaMixer's."""


class AdaptiveMixing(nn.Module):
    """Mix each query's samples along channels, then along points, with weights the query itself makes.

        ACM(x) = ReLU(LayerNorm(x M_c)),   M_c = Linear(q) in R^(C x C)   (channel mixing)
        ASM(x) = ReLU(LayerNorm(M_s x)),   M_s = Linear(q) in R^(O x P)   (spatial mixing)

    LayerNorm spans both trailing axes and has no affine weights, as in the authors' code. The weight
    generator starts at zero weight, so at initialisation every query mixes alike, by the bias alone.

    Two ablations. `order` mixes in another order or one way twice, each step with weights of its own. The
    paper does not say how many points then come out; by the definitions above an ASM makes O of however many
    it gets and an ACM keeps them, so that two ACM end with P. Without `adaptive`, all queries share the
    weights (`SharedNumbers`).
    """

    def __init__(
        self,
        query_dim: int,
        feature_dim: int,
        *,
        groups: int = 4,
        points_in: int = 32,
        points_out: int = 128,
        order: MixingOrder = "acm-asm",
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        if feature_dim % groups:
            raise ValueError(f"feature_dim must split evenly into groups, got {feature_dim} and {groups}")
        channels = feature_dim // groups
        self.groups, self.steps = groups, tuple(order.split("-"))
        self.shapes: list[tuple[int, int]] = []  # of the weights, step by step
        points = points_in
        for step in self.steps:
            self.shapes.append({"acm": (channels, channels), "asm": (points_out, points)}[step])
            points = points if step == "acm" else points_out
        numbers = groups * sum(rows * columns for rows, columns in self.shapes)
        self.weights = make_generator(query_dim, numbers, adaptive=adaptive)
        self.out = nn.Linear(groups * points * channels, query_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the same mixing weights for every query."""
        start_alike(self.weights)

    def forward(
        self, query: Float[Tensor, "B N D"], sampled: Float[Tensor, "B N G P C"]
    ) -> Float[Tensor, "B N D"]:
        """Return `query` updated with what its sampled features say."""
        x = sampled
        for step, weight in zip(self.steps, self.mixing_weights(query), strict=True):
            x = _norm_relu(x @ weight if step == "acm" else weight @ x)  # [B, N, G, points, C]
        return query + self.out(x.flatten(2))

    def mixing_weights(self, query: Float[Tensor, "B N D"]) -> list[Float[Tensor, "B N G _ _"]]:
        """Write this query's matrices, one per group for every step: M_c, then M_s."""
        per_group = self.weights(query).unflatten(-1, (self.groups, -1))
        flat = per_group.split([rows * columns for rows, columns in self.shapes], dim=-1)
        return [numbers.unflatten(-1, shape) for numbers, shape in zip(flat, self.shapes, strict=True)]


def _norm_relu(x: Float[Tensor, "... rows C"]) -> Float[Tensor, "... rows C"]:
    return F.relu(_norm_last_two(x).to(x.dtype))  # in bfloat16 runs the next product would round it anyway


@fp32_island("norm")
def _norm_last_two(x: Float[Tensor, "... rows C"]) -> Float[Tensor, "... rows C"]:
    return F.layer_norm(x, x.shape[-2:])
