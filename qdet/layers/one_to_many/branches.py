"""The branches of learned queries that only training has, behind a detector's own.

B images   P noised queries   N queries of the detector   M further ones, in branches of equal size
Q = P + N + M   D width
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qdet.layers.attention.visibility import hide_groups
from qdet.layers.one_to_many.config import OneToManyConfig
from qdet.types import Branches, Predictions, Reconstructions


class Branching(nn.Module):
    """Keeps the branches of a detector with `own` queries apart; does nothing in evaluation.

    A module, without parameters, since it must know whether its detector is trained.
    """

    def __init__(self, config: OneToManyConfig, own: int) -> None:
        super().__init__()
        self.config, self.own = config, own

    @property
    def active(self) -> bool:
        """Whether this pass has branches."""
        return self.training and self.config.branches > 0

    def hide(
        self, x: Float[Tensor, "B Q D"], groups: Int[Tensor, "B P"] | None = None
    ) -> Bool[Tensor, "#B Q Q"] | None:
        """Return True where a query (row) must not see another (column); None where there is nothing to hide.

        Branches share what there is beyond `own`, which is less than all where an image has too few tokens.
        """
        if groups is None and not self.active:
            return None
        if groups is None:
            groups = torch.empty(1, 0, dtype=torch.long, device=x.device)
        learned = x.shape[1] - groups.shape[1]
        if not self.active:
            return hide_groups(groups, learned)
        own, branches = min(learned, self.own), self.config.branches
        return hide_groups(groups, own, [(learned - own) // branches] * branches)

    def split(self, stages: Iterable[Predictions]) -> tuple[Predictions, ...]:
        """Return the stages' `Branches`, if this is training with any, then the other predictions.

        Also without a single further query, since all ranks must have the same terms of the loss.
        """
        stages, own = tuple(stages), self.own
        if not self.active:
            return stages
        mean = 1 / self.config.groups if self.config.kind == "groups" else None
        noised = [p for p in stages if isinstance(p, Reconstructions)]
        learned = stages[len(noised) :]
        further = (
            Branches(
                p.logits[:, own:],
                p.boxes_xyxy[:, own:],
                count=self.config.branches,
                repeats=self.config.repeats if mean is None else 1,
                weight=self.config.weight if mean is None else mean,
                own_weight=1.0 if mean is None else mean,
            )
            for p in learned
        )
        return *noised, *further, *(Predictions(p.logits[:, :own], p.boxes_xyxy[:, :own]) for p in learned)


def parts(x: Float[Tensor, "B A D"], own: int, config: OneToManyConfig) -> tuple[Tensor, ...]:
    """Split what queries start from into that of the detector's `own`, which come first, and of branches."""
    further = x.shape[1] - own
    return x.split([own, *[further // config.branches] * config.branches] if further else own, dim=1)
