"""The detections that are shown when every class has its best threshold, and what they got right.

n detections   g objects
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.analysis.curves import Curves
from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import Matches


@dataclass(frozen=True)
class OperatingPoint:
    """Detections at IoU 0.5 and at the score thresholds with the best F1."""

    shown: Bool[np.ndarray, " n"]
    """Of at least the threshold of their class, and not ignored."""
    correct: Bool[np.ndarray, " n"]
    """Those shown that found an object."""
    missed: Bool[np.ndarray, " g"]
    """Objects that count and that none of those shown found."""
    object_score: Float64[np.ndarray, " g"]
    """Score of the detection, shown or not, that found an object; 0 where none did."""

    @property
    def false(self) -> Bool[np.ndarray, " n"]:
        """Those shown that are wrong."""
        return self.shown & ~self.correct


def operate(truth: Truth, found: Found, matches: Matches, curves: Curves) -> OperatingPoint:
    """Apply the best threshold of every class.

    Matching is greedy by score within a class, so leaving out low scores changes no match of a higher one.
    """
    shown = (found.scores >= curves.thresholds()[found.labels]) & ~matches.ignored[0]
    correct = shown & matches.correct[0]
    object_of: Int64[np.ndarray, " n"] = matches.objects[0]
    missed = ~truth.ignored
    missed[object_of[correct]] = False
    score = np.zeros(len(truth.images))
    score[object_of[matches.correct[0]]] = found.scores[matches.correct[0]]
    return OperatingPoint(shown, correct, missed, score)
