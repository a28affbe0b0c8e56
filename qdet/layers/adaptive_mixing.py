"""Adaptive mixing: decode sampled features with an MLP-Mixer whose weights each query writes.

AdaMixer (Gao et al., CVPR 2022, https://arxiv.org/abs/2203.16507), section 3.3.

    B images   N queries   G groups   P points in   O points out   C channels per group   D query width
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.precision import fp32_island


class AdaptiveMixing(nn.Module):
    """Mix each query's samples along channels, then along points, with weights the query itself makes.

        ACM(x) = ReLU(LayerNorm(x M_c)),   M_c = Linear(q) in R^(C x C)   (channel mixing)
        ASM(x) = ReLU(LayerNorm(M_s x)),   M_s = Linear(q) in R^(O x P)   (spatial mixing)

    LayerNorm spans both trailing axes and has no affine weights, as in the authors' code. The weight
    generator starts at zero weight, so at initialisation every query mixes alike, by the bias alone.
    """

    def __init__(
        self, query_dim: int, feature_dim: int, *, groups: int = 4, points_in: int = 32, points_out: int = 128
    ) -> None:
        super().__init__()
        if feature_dim % groups:
            raise ValueError(f"feature_dim must split evenly into groups, got {feature_dim} and {groups}")
        channels = feature_dim // groups
        self.groups, self.channels, self.points_in, self.points_out = groups, channels, points_in, points_out
        self.weights = nn.Linear(query_dim, groups * (channels * channels + points_out * points_in))
        self.out = nn.Linear(groups * points_out * channels, query_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the same mixing weights for every query."""
        nn.init.zeros_(self.weights.weight)

    def forward(
        self, query: Float[Tensor, "B N D"], sampled: Float[Tensor, "B N G P C"]
    ) -> Float[Tensor, "B N D"]:
        """Return `query` updated with what its sampled features say."""
        channel_mix, spatial_mix = self.mixing_weights(query)
        x = _norm_relu(sampled @ channel_mix)  # [B, N, G, P, C]
        x = _norm_relu(spatial_mix @ x)  # [B, N, G, O, C]
        return query + self.out(x.flatten(2))

    def mixing_weights(
        self, query: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "B N G C C"], Float[Tensor, "B N G O P"]]:
        """Write this query's M_c and M_s, one pair per group."""
        per_group = self.weights(query).unflatten(-1, (self.groups, -1))
        channel, spatial = per_group.split([self.channels**2, self.points_out * self.points_in], dim=-1)
        return (
            channel.unflatten(-1, (self.channels, self.channels)),
            spatial.unflatten(-1, (self.points_out, self.points_in)),
        )


def _norm_relu(x: Float[Tensor, "... rows C"]) -> Float[Tensor, "... rows C"]:
    return F.relu(_norm_last_two(x).to(x.dtype))  # in bfloat16 runs the next product would round it anyway


@fp32_island("norm")
def _norm_last_two(x: Float[Tensor, "... rows C"]) -> Float[Tensor, "... rows C"]:
    return F.layer_norm(x, x.shape[-2:])
