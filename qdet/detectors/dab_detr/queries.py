"""DAB-DETR's queries: settings, anchor boxes and contents; DN-DETR's extra ones ahead of them.

B images   A anchors   P patterns   N = A P queries   E extra queries   Q = E + N   D width
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.denoising.queries import LabelEmbedding, start_boxes
from qdet.layers.one_to_many.branches import parts
from qdet.layers.one_to_many.config import NO_BRANCHES, OneToManyConfig
from qdet.layers.precision import fp32_island
from qdet.layers.queries import LearnedQueries
from qdet.layers.reference_points import inverse_sigmoid
from qdet.types import ExtraQueries

EPS = 1e-3
"""Floor of this paper's inverse sigmoids, which keeps divisions by an anchor's size finite."""


class Queries(nn.Module):
    """Anchor boxes and the initial content of their queries: zero, or one of the patterns.

    With denoising (DN-DETR's section 4.2) they are added to the embedding of "unknown"; an extra query has
    that of its noised label. The last feature says whether a query is an extra one. `classes` is None
    without denoising.

    Appendix G fixes randomly drawn centres. The authors' code tries to, but disables gradients for a slice
    of a parameter, which has no effect. Here fixed centres are a buffer, so that neither
    gradients nor weight decay move them, on any ZeRO stage; `qdet.convert.fix_centers` takes them from the
    authors' weights.
    """

    def __init__(
        self,
        anchors: int,
        width: int,
        *,
        dims: int = 4,
        patterns: int = 0,
        fixed_centers: bool = False,
        classes: int | None = None,
        one_to_many: OneToManyConfig = NO_BRANCHES,
    ) -> None:
        super().__init__()
        self.anchors, self.width, self.one_to_many = anchors, width, one_to_many
        extra = one_to_many.extra(anchors)
        self.boxes = LearnedQueries(anchors, dims - 2 * fixed_centers, normalize=False, extra=extra)
        centers = inverse_sigmoid(torch.rand(anchors + extra, 2), EPS) if fixed_centers else None
        self.register_buffer("centers", centers)
        self.centers: Tensor | None
        self.patterns = LearnedQueries(patterns, width, normalize=False) if patterns else None
        self.labels = LabelEmbedding(classes, width - 1) if classes is not None else None

    def forward(
        self, images: int, extra: ExtraQueries | None = None
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q _"]]:
        """Return contents and boxes (cxcywh or centres, normalized): extra ones, then pattern by pattern.

        Branches of further queries follow, in training, each pattern by pattern.
        """
        learned = self.boxes(images)
        centers = None if self.centers is None else self.centers[: learned.shape[1]]
        boxes, contents = normalize_anchors(learned, centers), None
        if self.patterns is not None:
            patterns, sets = self.patterns(images), parts(boxes, self.anchors, self.one_to_many)
            contents = torch.cat([patterns.repeat_interleave(s.shape[1], dim=1) for s in sets], dim=1)
            boxes = torch.cat([s.repeat(1, patterns.shape[1], 1) for s in sets], dim=1)
        if self.labels is not None:
            return self._with_labels(self.labels, contents, boxes, extra)
        if contents is None:
            contents = boxes.new_zeros(*boxes.shape[:2], self.width)
        return contents, boxes

    def _with_labels(
        self,
        embedding: LabelEmbedding,
        contents: Float[Tensor, "B N D"] | None,
        boxes: Float[Tensor, "B N _"],
        extra: ExtraQueries | None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q _"]]:
        """Add the embeddings of "unknown", and put the extra queries first."""
        unknown = torch.full(boxes.shape[:2], embedding.classes, device=boxes.device)
        labels = unknown if extra is None else torch.cat((extra.labels, unknown), dim=1)
        first = labels.shape[1] - unknown.shape[1]
        noised, own = F.pad(embedding(labels), (0, 1)).split((first, unknown.shape[1]), dim=1)
        own = own if contents is None else own + contents
        if extra is None:
            return own, boxes
        noised = torch.cat((noised[..., :-1], torch.ones_like(noised[..., -1:])), dim=-1)
        noised = noised * extra.filled.unsqueeze(-1)
        starts = start_boxes(extra, eps=EPS)[..., : boxes.shape[-1]]
        return torch.cat((noised, own), dim=1), torch.cat((starts, boxes), dim=1)


@fp32_island("geometry")
def normalize_anchors(
    learned: Float[Tensor, "B A _"], centers: Float[Tensor, "A 2"] | None
) -> Float[Tensor, "B A _"]:
    """Return anchors in normalized coordinates; `learned` holds the values that `centers` does not."""
    if centers is not None:
        learned = torch.cat((centers.expand(learned.shape[0], -1, -1), learned), dim=-1)
    return learned.sigmoid()
