"""Which queries see which: groups of extra queries beside a detector's own.

B images   P extra queries   N queries of the detector   Q = P + N
"""

import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

HIDDEN = -1
"""Group of queries that none sees."""
_OWN = -2


def hide_groups(groups: Int[Tensor, "B P"], queries: int) -> Bool[Tensor, "B Q Q"] | None:
    """Return True where a query (row) must not see another (column); None where there is nothing to hide.

    Extra queries, which stand first, see their own group and the detector's `queries`; these see each other
    alone. So no row is hidden entirely (DN-DETR, CVPR 2022, section 4.3; DINO's code).
    """
    if not groups.shape[1]:
        return None
    everyone = F.pad(groups, (0, queries), value=_OWN)
    foreign = everyone.unsqueeze(2) != everyone.unsqueeze(1)
    return (foreign & (everyone != _OWN).unsqueeze(1)) | (everyone == HIDDEN).unsqueeze(1)
