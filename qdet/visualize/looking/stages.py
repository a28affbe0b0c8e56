"""Boxes of every query, stage by stage.

S stages   N queries   K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from qdet.detectors.detector import Detector
from qdet.layers.heads import Scores
from qdet.types import Predictions, Proposals
from qdet.visualize.looking.frame import Frame


@dataclass(frozen=True)
class StageBoxes:
    """What the stages of a detector predict for one image."""

    boxes_xyxy: Float[np.ndarray, "S N 4"]
    """Corners in pixels of the original image, not clipped."""
    scores: Float[np.ndarray, "S N"]
    """Of each query's best class."""
    labels: Int[np.ndarray, "S N"]
    """That class."""

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.scores)

    def best(self, count: int, *, score: float) -> list[int]:
        """Return at most `count` queries whose last score is at least `score`, best first."""
        last = self.scores[-1]
        ranked = np.argsort(-last, kind="stable")[:count]
        return [int(query) for query in ranked if last[query] >= score]


def stage_boxes(detector: Detector, predictions: Sequence[Predictions], frame: Frame) -> StageBoxes:
    """Collect the boxes of one image; an encoder's proposals are no stage."""
    stages = [p for p in predictions if not isinstance(p, Proposals)]
    best = [_probabilities(p.logits[frame.row], scores_of(detector)).max(-1) for p in stages]
    return StageBoxes(
        np.stack([frame.boxes_to_original(p.boxes_xyxy) for p in stages]),
        np.stack([values.double().cpu().numpy() for values, _ in best]),
        np.stack([labels.cpu().numpy() for _, labels in best]),
    )


def scores_of(detector: Detector) -> Scores:
    """Return how a detector's logits are scored, which its settings say."""
    return getattr(getattr(detector, "config", None), "scores", "sigmoid")


def _probabilities(logits: Float[Tensor, "N K"], scores: Scores) -> Float[Tensor, "N _"]:
    """Return class probabilities; with softmax without that of no object, which is the last."""
    logits = logits.detach().float()
    return logits.softmax(-1)[:, :-1] if scores == "softmax" else logits.sigmoid()
