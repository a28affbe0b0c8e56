"""TIDE: how much AP each kind of error costs.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020. Every wrong
detection is of one kind, every missed object that no other fix would find is a miss, and the cost of a kind
is the AP gained when an oracle mends its errors alone. Where the paper leaves a choice, this does as its
authors' tidecv does. Unlike tidecv, detections of crowds are no errors, only classes with objects are
averaged, and a class whose objects were all missed has AP 1 once they no longer count, not 0.

hotcoco's `tide_errors` names the kinds alike, but mends several detections of one object into as many true
positives, each in its own class, so its costs of localization and classification errors differ.

n detections   g objects   p overlapping pairs
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.average_precision import interpolated_precision
from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import Matches
from qdet.evaluation.matching.overlaps import LEAST, Overlaps

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
_FOREGROUND = 0.5
_CLS, _LOC, _BOTH, _DUPE, _BKG = range(5)


@dataclass(frozen=True)
class ErrorKinds:
    """Errors at IoU 0.5 by kind."""

    AP50: float
    """What the costs are taken from; NaN without objects."""
    cost: Mapping[str, float]
    """AP50 gained by mending the errors of a kind; they do not add up, as kinds hide each other."""
    counts: Mapping[str, int]
    false_positives: float
    """AP50 gained if no detection were wrong."""
    false_negatives: float
    """AP50 gained if no object that was missed counted."""
    per_class: Mapping[str, Mapping[str, float]]
    """Cost by class."""


@dataclass(frozen=True)
class _Points:
    """What AP is computed of."""

    scores: Float64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    there: Bool[np.ndarray, " n"]
    objects: Int64[np.ndarray, " K"]
    """How many are to be found."""
    measured: Int64[np.ndarray, " k"]
    """The classes with objects."""

    def ap(self) -> Float64[np.ndarray, " K"]:
        """AP at IoU 0.5 of every class; NaN without objects."""
        each = np.full(len(self.objects), np.nan)
        for k in self.measured.tolist():
            each[k] = self._class_ap(k) if self.objects[k] else 1.0
        return each

    def _class_ap(self, k: int) -> float:
        own = np.flatnonzero(self.there & (self.labels == k))
        hit = np.flatnonzero(self.correct[own[np.argsort(-self.scores[own], kind="stable")]])
        running = np.arange(1, len(hit) + 1)[None]
        return float(interpolated_precision(running, hit[None] + 1, self.objects[[k]]).mean())


def split_errors(truth: Truth, found: Found, overlaps: Overlaps, matches: Matches) -> ErrorKinds:
    """Name the kind of every error, and mend one kind after the other."""
    wrong = ~matches.correct[0] & ~matches.ignored[0]
    kinds, target = _name_kinds(truth, found, overlaps.select(~truth.ignored[overlaps.objects]), matches)
    kinds[~wrong] = -1
    missed = matches.missed(truth)
    mended = _mendable(found, kinds, target, missed)
    alone = missed.copy()
    alone[target[(kinds == _CLS) | (kinds == _LOC)]] = False
    points = _points(truth, found, matches)
    fixed = [_mend(points, truth, kinds == kind, mended, target) for kind in (_CLS, _LOC, _BOTH, _DUPE, _BKG)]
    fixed.append(replace(points, objects=points.objects - _count(truth.labels[alone], truth)))
    base = points.ap()
    gains = [one.ap() - base for one in fixed]
    all_missed = replace(points, objects=points.objects - _count(truth.labels[missed], truth))
    return ErrorKinds(
        AP50=_mean(base),
        cost={name: _gain(gain) for name, gain in zip(KINDS, gains, strict=True)},
        counts=_totals(kinds, alone),
        false_positives=_gain(replace(points, there=points.correct).ap() - base),
        false_negatives=_gain(all_missed.ap() - base),
        per_class={
            name: {kind: _gain(gain[k : k + 1]) for kind, gain in zip(KINDS, gains, strict=True)}
            for k, name in enumerate(truth.names)
        },
    )


def _points(truth: Truth, found: Found, matches: Matches) -> _Points:
    objects = truth.objects()
    return _Points(
        found.scores,
        found.labels,
        matches.correct[0],
        ~matches.ignored[0],
        objects,
        np.flatnonzero(objects),
    )


def _name_kinds(
    truth: Truth, found: Found, pairs: Overlaps, matches: Matches
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the kind of every detection as if it were wrong, and the object that it would be mended into."""
    same = found.labels[pairs.detections] == truth.labels[pairs.objects]
    own_iou, own_object = _best(len(found), pairs.select(same))
    other_iou, other_object = _best(len(found), pairs.select(~same))
    used = ~matches.missed(truth)
    duplicate = np.zeros(len(found), bool)
    duplicate[pairs.detections[same & used[pairs.objects] & (pairs.iou >= _FOREGROUND)]] = True
    nothing = np.maximum(own_iou, other_iou) <= LEAST
    tests = [
        (own_iou >= LEAST) & (own_iou <= _FOREGROUND),
        other_iou >= _FOREGROUND,
        duplicate,
        nothing,
    ]
    kinds = np.select(tests, [_LOC, _CLS, _DUPE, _BKG], _BOTH).astype(np.int64)
    return kinds, np.where(kinds == _LOC, own_object, other_object)


def _best(length: int, pairs: Overlaps) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the largest IoU of every detection and its object, the first of several; 0 and -1 without."""
    order = np.lexsort((pairs.objects, -pairs.iou, pairs.detections))
    detections, first = np.unique(pairs.detections[order], return_index=True)
    iou, objects = np.zeros(length), np.full(length, -1, np.int64)
    iou[detections], objects[detections] = pairs.iou[order[first]], pairs.objects[order[first]]
    return iou, objects


def _mendable(
    found: Found,
    kinds: Int64[np.ndarray, " n"],
    target: Int64[np.ndarray, " n"],
    missed: Bool[np.ndarray, " g"],
) -> Bool[np.ndarray, " n"]:
    """Choose the detection that each missed object would be found by: the best score among its errors."""
    candidates = np.flatnonzero((kinds == _CLS) | (kinds == _LOC))
    candidates = candidates[missed[target[candidates]]]
    order = candidates[np.argsort(-found.scores[candidates], kind="stable")]
    _, first = np.unique(target[order], return_index=True)
    mended = np.zeros(len(kinds), bool)
    mended[order[first]] = True
    return mended


def _mend(
    points: _Points,
    truth: Truth,
    own: Bool[np.ndarray, " n"],
    mended: Bool[np.ndarray, " n"],
    target: Int64[np.ndarray, " n"],
) -> _Points:
    """Turn the errors of a kind into true positives where they can be, and take the others away."""
    right = own & mended
    return replace(
        points,
        labels=np.where(right, truth.labels[target] if len(truth.labels) else points.labels, points.labels),
        correct=points.correct | right,
        there=points.there & (~own | mended),
    )


def _gain(gains: Float64[np.ndarray, " k"]) -> float:
    """Return the mean over classes; a loss, which the curve's 101 steps can make, is no gain."""
    mean = _mean(gains)
    return mean if np.isnan(mean) else max(mean, 0.0)


def _mean(values: Float64[np.ndarray, " k"]) -> float:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else np.nan


def _count(labels: Int64[np.ndarray, " k"], truth: Truth) -> Int64[np.ndarray, " K"]:
    return np.bincount(labels, minlength=len(truth.names))


def _totals(kinds: Int64[np.ndarray, " n"], alone: Bool[np.ndarray, " g"]) -> dict[str, int]:
    counts = np.bincount(kinds[kinds >= 0], minlength=5).tolist()
    return dict(zip(KINDS, [*counts, int(alone.sum())], strict=True))
