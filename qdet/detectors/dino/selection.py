"""DINO's queries: boxes of the best tokens, contents of their own (section 3.4, mixed query selection).

B images   N queries   K classes   T tokens of all levels   D width
"""

from copy import deepcopy
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.heads import DetectionHead
from qdet.layers.queries import LearnedQueries
from qdet.layers.token_levels import TokenLevels
from qdet.layers.transformer.layers import xavier_matrices
from qdet.layers.transformer.token_proposals import best_tokens, grid_anchors, settle, take

Content = Literal["learned", "token"]


class TokenSelection(nn.Module):
    """Predict a box from every token; those of the highest score of any class become anchors.

    Only the chosen ones are compared with objects. No gradient passes from a query to its token. Tokens
    without a usable anchor compete as well, as in the authors' code. The tokens' head starts as a copy of the
    decoder's `head`. `extra` tokens more become queries in training, without being compared themselves.
    """

    def __init__(
        self, queries: int, width: int, head: DetectionHead, *, content: Content, extra: int = 0
    ) -> None:
        super().__init__()
        self.queries, self.extra = queries, extra
        self.projection, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.head = deepcopy(head)
        learned = content == "learned"
        self.content = LearnedQueries(queries, width, normalize=False, extra=extra) if learned else None
        xavier_matrices(self.projection, *([] if self.content is None else [self.content]))

    def forward(
        self, memory: Float[Tensor, "B T D"], levels: TokenLevels
    ) -> tuple[
        Float[Tensor, "B NM D"], Float[Tensor, "B NM 4"], Float[Tensor, "B N K"], Float[Tensor, "B N 4"]
    ]:
        """Return content and boxes of the queries, then logits and boxes of their tokens, with gradient.

        Only those of the detector's own tokens are returned.
        """
        anchors, usable = grid_anchors(levels)
        tokens = self.norm(self.projection(memory.masked_fill(~usable.unsqueeze(-1), 0)))
        logits, boxes = self.head(tokens, anchors)
        best = best_tokens(logits.amax(-1), self.queries + (self.extra if self.training else 0))
        boxes = take(settle(boxes, usable), best)
        if self.content is None:
            content = take(tokens, best).detach()
        else:
            content = self.content(memory.shape[0])[:, : best.shape[1]]
        own = slice(self.queries)
        return content, boxes.detach(), take(logits, best[:, own]), boxes[:, own]
