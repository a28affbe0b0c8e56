"""Cross-entropy over the classes and "no object", as DETR classifies.

S stages   n queries of the batch   m matched pairs   K classes, the last of which is "no object"
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def softmax_loss(
    logits: Float[Tensor, "S n K"],
    stage: Int[Tensor, "S 1"],
    queries: Int[Tensor, "S m"],
    labels: Int[Tensor, "S m"],
    no_object: float,
) -> Float[Tensor, " S"]:
    """Sum the cross-entropy of each stage's queries; those without an object weigh `no_object`.

    DETR (ECCV 2020, section 3.1) divides it by the sum of the weights, which is the caller's to do.
    """
    likelihood = F.log_softmax(logits, dim=-1)
    nothing = likelihood[..., -1]
    told = likelihood[stage, queries, labels]
    return -(told.sum(1) + no_object * (nothing.sum(1) - nothing[stage, queries].sum(1)))
