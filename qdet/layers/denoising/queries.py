"""Contents of extra queries, and their predictions apart from those of a detector's own queries.

B images   P extra queries   N queries of the detector   Q = P + N   K classes   D width
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qdet.layers.precision import fp32_island
from qdet.layers.reference_points import inverse_sigmoid
from qdet.types import ExtraQueries, Predictions, Reconstructions


class LabelEmbedding(nn.Module):
    """A learned vector for each class, and one more for "unknown".

    A module of its own for the same reason as `LearnedQueries`. It takes part in every training step, also
    without objects: a parameter that gets no gradient on one rank stops ZeRO.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.empty(classes + 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 1)."""
        nn.init.normal_(self.weight)

    def forward(self, labels: Int[Tensor, "B Q"]) -> Float[Tensor, "B Q D"]:
        """Return the vector of each label; label K is unknown."""
        return F.embedding(labels, self.weight)


@fp32_island("geometry")
def start_boxes(extra: ExtraQueries, *, eps: float) -> Float[Tensor, "B P 4"]:
    """Return initial boxes that inverse sigmoids floored at `eps` leave as they are."""
    return inverse_sigmoid(extra.boxes, eps).sigmoid()


def put_first(
    embedding: LabelEmbedding | None,
    content: Float[Tensor, "B N D"],
    boxes: Float[Tensor, "B N 4"],
    extra: ExtraQueries | None,
    *,
    eps: float = 1e-3,
    normalize: bool = False,
) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q 4"]]:
    """Put the extra queries ahead of the detector's; boxes are cxcywh in normalized coordinates.

    An extra query's content is its label's vector, with `normalize` through LayerNorm without affine weights.
    Boxes have at least a size of `eps`, as DN-DETR's and DINO's: negatives' may be below 0.
    `embedding` is None without denoising. In training it takes part in every pass, whether there are extra
    queries or not: ZeRO needs a gradient of it on every rank.
    """
    if embedding is None or (extra is None and not embedding.training):
        return content, boxes
    if extra is None:
        nothing = embedding(torch.zeros(content.shape[0], 0, dtype=torch.long, device=content.device))
        return torch.cat((nothing, content), dim=1), boxes
    noised = embedding(extra.labels)
    if normalize:
        noised = F.layer_norm(noised, noised.shape[-1:])
    noised = noised * extra.filled.unsqueeze(-1)
    return torch.cat((noised, content), dim=1), torch.cat((start_boxes(extra, eps=eps), boxes), dim=1)


def split_predictions(stages: Iterable[Predictions], extra: ExtraQueries | None) -> tuple[Predictions, ...]:
    """Return the stages' `Reconstructions`, if there are extra queries, then their `Predictions`."""
    stages = tuple(stages)
    if extra is None:
        return stages
    first = extra.labels.shape[1]
    reconstructed = (Reconstructions(p.logits[:, :first], p.boxes_xyxy[:, :first]) for p in stages)
    own = (Predictions(p.logits[:, first:], p.boxes_xyxy[:, first:]) for p in stages)
    return *reconstructed, *own
