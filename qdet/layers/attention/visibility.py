"""Which queries see which: groups of extra queries beside a detector's own.

B images   P noised queries   N queries of the detector   M learned ones of training alone   Q = P + N + M
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

HIDDEN = -1
"""Group of queries that none sees."""
_OWN = -2
"""Group of the detector's own queries; branches of learned ones have the numbers below."""


def hide_groups(
    groups: Int[Tensor, "B P"], queries: int, branches: Sequence[int] = ()
) -> Bool[Tensor, "B Q Q"] | None:
    """Return True where a query (row) must not see another (column); None where there is nothing to hide.

    Noised queries, which stand first, see their own group and the detector's `queries`; these see each other
    alone (DN-DETR, CVPR 2022, section 4.3; DINO's code). So do those of each branch, whose sizes are
    `branches` (Group DETR, ICCV 2023, section 3; H-DETR, CVPR 2023, section 3.2). No row is hidden entirely.
    """
    sizes = [size for size in branches if size]
    if not groups.shape[1] and not sizes:
        return None
    learned = [torch.full((size,), _OWN - 1 - i) for i, size in enumerate(sizes)]
    others = torch.cat((torch.full((queries,), _OWN), *learned))
    others = others.to(groups.device, non_blocking=True).expand(groups.shape[0], -1)
    everyone = torch.cat((groups, others), dim=1)
    row, column = everyone.unsqueeze(2), everyone.unsqueeze(1)
    sees_own = (column == _OWN) & (row > _OWN)
    return ((row != column) & ~sees_own) | (column == HIDDEN)
