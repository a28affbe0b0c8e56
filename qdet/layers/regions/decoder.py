"""A decoder of queries with boxes: each stage reads the region in a query's box and moves the box.

Sparse R-CNN (Sun et al., CVPR 2021, https://arxiv.org/abs/2011.12450), section 3.2; Dynamic DETR (Dai et al.,
ICCV 2021) decodes in the same way.

    B images   N queries   E extra queries   Q = E + N   K classes   D width
"""

from collections.abc import Iterable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qdet.boxes import xyxy_to_cxcywh
from qdet.layers.attention.multi_head import SelfAttention
from qdet.layers.attention.visibility import hide_groups
from qdet.layers.denoising.queries import LabelEmbedding, put_first, split_predictions
from qdet.layers.heads import Head, Scores, start_at_prior
from qdet.layers.mlp import FeedForward, tower
from qdet.layers.position import embed_reference
from qdet.layers.precision import fp32_island
from qdet.layers.queries import LearnedQueries, Start, first_boxes
from qdet.layers.reference_points import to_pixels
from qdet.layers.regions.box_deltas import apply_deltas
from qdet.layers.regions.dynamic_conv import DynamicConv
from qdet.layers.regions.roi_align import Pyramid, roi_align
from qdet.layers.transformer.layers import Residual, run, xavier_matrices
from qdet.types import ExtraQueries, Predictions


class RegionDecoder(nn.Module):
    """Learned boxes and features, the same for every image, refined stage by stage.

    A stage's boxes are detached before the next reads them: gradients pass between stages by features alone.
    With `encode_boxes`, attention between queries also reads an embedding of their boxes. With `classes`
    it may be trained with denoising.
    """

    def __init__(
        self,
        stages: Iterable["RegionStage"],
        queries: int,
        width: int,
        *,
        start: Start = "image",
        encode_boxes: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.encode_boxes = encode_boxes
        self.content = LearnedQueries(queries, width, normalize=False)
        self.first_boxes_cxcywh = LearnedQueries(queries, 4, normalize=False)
        with torch.no_grad():
            self.first_boxes_cxcywh.weight.copy_(first_boxes(queries, start))
        self.labels = None if classes is None else LabelEmbedding(classes, width)
        self.stages = nn.ModuleList(stages)

    def forward(
        self,
        pyramid: Pyramid,
        sizes_hw: Int[Tensor, "B 2"],
        extra: ExtraQueries | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Predictions, ...]:
        """Return each stage's predictions; `recompute` trades activations for a second forward pass."""
        content, boxes = self.content(sizes_hw.shape[0]), self.first_boxes_cxcywh(sizes_hw.shape[0])
        hidden = None if extra is None else hide_groups(extra.groups, content.shape[1])
        content, boxes = put_first(self.labels, content, boxes, extra)
        boxes = to_pixels(boxes, sizes_hw)
        predictions = []
        for stage in self.stages:
            position = embed_boxes(boxes, sizes_hw, content.shape[-1]) if self.encode_boxes else None
            content, logits, boxes = run(
                stage, content, boxes, pyramid, position, hidden, recompute=recompute
            )
            predictions.append(Predictions(logits, boxes))
            boxes = boxes.detach()
        return split_predictions(predictions, extra)


class RegionStage(nn.Module):
    """Attend to the other queries, filter each query's region with its own filters, and predict."""

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        heads: int,
        ffn: int,
        dropout: float,
        roi_size: int,
        filters: int,
        dynamic_layers: int,
        class_layers: int,
        box_layers: int,
        scores: Scores = "sigmoid",
    ) -> None:
        super().__init__()
        self.scores = scores
        self.roi_size = roi_size
        self.read_regions = partial(roi_align, size=roi_size)
        attention = SelfAttention(width, heads=heads, dropout=dropout)
        interaction = DynamicConv(width, cells=roi_size**2, filters=filters, layers=dynamic_layers)
        self.attention = Residual(attention, width, dropout=dropout)
        self.interaction = Residual(interaction, width, dropout=dropout)
        self.ffn = Residual(FeedForward(width, ffn, dropout=dropout), width, dropout=dropout)
        self.class_tower = tower(width, class_layers, bias=False)
        self.box_tower = tower(width, box_layers, bias=False)
        self.class_head = Head(width, classes + (scores == "softmax"))
        self.box_head = Head(width, 4)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as Sparse R-CNN's code does, which does not start deltas at zero.

        Their code finds the class head's bias by its length; here it is always the class head's.
        """
        xavier_matrices(self)
        if self.scores == "sigmoid":
            start_at_prior(self.class_head)

    def forward(
        self,
        content: Float[Tensor, "B Q D"],
        boxes_xyxy: Float[Tensor, "B Q 4"],
        pyramid: Pyramid,
        position: Float[Tensor, "B Q D"] | None,
        hidden: Bool[Tensor, "B Q Q"] | None = None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q K"], Float[Tensor, "B Q 4"]]:
        """Return the new content, its class logits and the moved boxes.

        True in `hidden` where a query (row) must not see another (column).
        """
        content = self.attention(content, position, hidden)
        content = self.interaction(content, self.read_regions(pyramid, boxes_xyxy))
        content = self.ffn(content)
        logits = self.class_head(self.class_tower(content))
        deltas = self.box_head(self.box_tower(content))
        return content, logits, apply_deltas(boxes_xyxy, deltas)


@fp32_island("position")
def embed_boxes(
    boxes_xyxy: Float[Tensor, "B N 4"], sizes_hw: Int[Tensor, "B 2"], dim: int
) -> Float[Tensor, "B N D"]:
    """Embed boxes given in pixels by sines of their normalized coordinates."""
    extent = sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)  # [B, 1, 4]: w, h, w, h
    return embed_reference(xyxy_to_cxcywh(boxes_xyxy) / extent.to(boxes_xyxy.dtype), dim)
