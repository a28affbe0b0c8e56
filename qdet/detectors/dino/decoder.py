"""DINO's decoder: deformable layers that refine anchor boxes, and look forward twice (section 3.5).

B images   Q queries   K classes   T tokens of all levels   D width
"""

from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from qdet.layers.heads import DetectionHead
from qdet.layers.mlp import MLP
from qdet.layers.position import embed_reference
from qdet.layers.precision import fp32_island
from qdet.layers.reference_points import boxes_from
from qdet.layers.token_levels import TokenLevels
from qdet.layers.transformer.deformable import LookForward, deformable_decoder_layers
from qdet.layers.transformer.layers import run, xavier_matrices

EPS = 1e-3
"""Floor of this paper's inverse sigmoids."""


class Decoder(nn.Module):
    """Queries whose positions depend on their boxes alone, updated layer by layer.

    A layer reads its boxes detached; its prediction refines them undetached when it looks forward twice, so
    that its loss reaches one layer back. The next boxes are computed from a layer's output itself,
    predictions from the output after the norm that all layers share.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        predictors: Sequence[DetectionHead],
        *,
        look_forward: LookForward,
        temperature: float,
        **sizes: Any,
    ) -> None:
        super().__init__()
        self.twice, self.temperature = look_forward == "twice", temperature
        self.layers = deformable_decoder_layers(layers, width, **sizes)
        self.norm = nn.LayerNorm(width)
        self.position_head = MLP(2 * width, width, width, 2)
        xavier_matrices(self.position_head)
        self.heads = nn.ModuleList(predictors)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        boxes: Float[Tensor, "B Q 4"],
        memory: Float[Tensor, "B T D"],
        levels: TokenLevels,
        hidden: Bool[Tensor, "#B Q Q"] | None,
        *,
        recompute: bool = False,
    ) -> list[tuple[Float[Tensor, "B Q K"], Float[Tensor, "B Q 4"]]]:
        """Return every layer's logits and boxes, cxcywh in normalized coordinates."""
        outputs = []
        for i, layer in enumerate(self.layers):
            head = cast(DetectionHead, self.heads[min(i, len(self.heads) - 1)])
            anchors = boxes.detach()
            position = self.position_head(self._embed(anchors, levels))
            to_image = (position, anchors, memory, levels)
            x = run(layer, x, (position, hidden), to_image, recompute=recompute)
            normed, reference = self.norm(x), boxes if self.twice else anchors
            predicted = boxes_from(head.box_head(normed), reference, eps=EPS)
            outputs.append((head.class_head(normed), predicted))
            if i + 1 < len(self.layers):
                boxes = boxes_from(head.box_head(x), anchors, eps=EPS)
        return outputs

    @fp32_island("position")
    def _embed(self, boxes: Float[Tensor, "B Q 4"], levels: TokenLevels) -> Float[Tensor, "B Q _"]:
        """Embed boxes relative to the finest padded map, as in the authors' code."""
        share = levels.inside_share[:, 0].repeat(1, 2).unsqueeze(1)
        width = self.norm.normalized_shape[0]
        return embed_reference(boxes * share, 2 * width, temperature=self.temperature)
