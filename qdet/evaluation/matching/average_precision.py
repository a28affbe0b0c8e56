"""COCO's average precision of matched detections, for many weightings of the images at once.

A weighting says how often an image counts: all ones give COCO AP, the draws of a bootstrap resample it, zeros
and ones take a part of the images. The detections are matched once for all.

B weightings   m images   T IoU thresholds   K classes   n detections of a class   h hits among them
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import Matches

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO averages precision over these."""
_AT_ONCE = 4_000_000
"""Detections times weightings that are summed up at once, which bounds memory."""


@dataclass(frozen=True)
class RankedClass:
    """One class: its objects' images, and its detections with the best score first."""

    objects: Int64[np.ndarray, " g"]
    """Image of every object that counts."""
    images: Int64[np.ndarray, " n"]
    correct: Bool[np.ndarray, "T n"]
    ignored: Bool[np.ndarray, "T n"]


def rank(truth: Truth, found: Found, matches: Matches) -> tuple[RankedClass, ...]:
    """Sort every class's detections by score; ties keep the order of the images, as in COCO."""
    order = np.lexsort((-found.scores, found.labels))
    ends = np.searchsorted(found.labels[order], np.arange(len(truth.names) + 1))
    correct = matches.correct
    ranked = []
    for k in range(len(truth.names)):
        own = order[ends[k] : ends[k + 1]]
        objects = truth.images[(truth.labels == k) & ~truth.ignored]
        ranked.append(RankedClass(objects, found.images[own], correct[:, own], matches.ignored[:, own]))
    return tuple(ranked)


def average_precision(
    ranked: tuple[RankedClass, ...], weights: Int64[np.ndarray, "B m"]
) -> Float64[np.ndarray, "B T K"]:
    """AP per weighting, IoU threshold and class; NaN for a class without objects there."""
    return np.stack([_class_precision(one, weights) for one in ranked], axis=2)


def mean_over_classes(precision: Float64[np.ndarray, "B T K"]) -> Float64[np.ndarray, "B T"]:
    """Mean over the classes with objects; NaN where there are none."""
    measured = ~np.isnan(precision)
    total = np.where(measured, precision, 0).sum(2)
    count = measured.sum(2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interpolated_precision(
    hits: Int64[np.ndarray, "B h"], shown: Int64[np.ndarray, "B h"], objects: Int64[np.ndarray, " B"]
) -> Float64[np.ndarray, "B 101"]:
    """COCO's precision at 101 recalls, of lists of detections.

    Args:
        hits: Running count of true positives, at every true positive.
        shown: Running count of detections there.
        objects: How many there are to be found, at least 1.
    """
    rows, length = hits.shape
    if not length:
        return np.zeros((rows, len(RECALLS)))
    precision = hits / (np.maximum(shown, 1) + np.spacing(1))  # the spacing is pycocotools'
    best_later = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    apart = np.arange(rows)[:, None] * (int(hits.max()) + int(objects.max()) + 2)
    needed = _hits_for_recall(objects)
    place = np.searchsorted((hits + apart).ravel(), (needed + apart).ravel()).reshape(needed.shape)
    place -= np.arange(rows)[:, None] * length
    reached = place < length
    return np.where(reached, np.take_along_axis(best_later, np.where(reached, place, 0), 1), 0.0)


def _hits_for_recall(objects: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, "B 101"]:
    """Return the smallest number of hits whose recall, as a float, is at least each of `RECALLS`."""
    total = objects[:, None]
    guess = np.ceil(RECALLS * total).astype(np.int64)
    guess -= (guess - 1) / total >= RECALLS
    return guess + (guess / total < RECALLS)


def _class_precision(one: RankedClass, weights: Int64[np.ndarray, "B m"]) -> Float64[np.ndarray, "B T"]:
    step = max(1, _AT_ONCE // max(1, len(one.images)))
    parts = [_part_precision(one, weights[i : i + step]) for i in range(0, len(weights), step)]
    return np.concatenate(parts)


def _part_precision(one: RankedClass, weights: Int64[np.ndarray, "B m"]) -> Float64[np.ndarray, "B T"]:
    objects = weights[:, one.objects].sum(1)
    there = objects > 0
    found = np.full((len(weights), len(one.correct)), np.nan)
    weights, objects = weights[there], objects[there]
    if not len(weights):
        return found
    own = weights[:, one.images]
    shown = own.cumsum(1)
    for t, (correct, ignored) in enumerate(zip(one.correct, one.ignored, strict=True)):
        hit = np.flatnonzero(correct)
        before = shown[:, hit] - (own * ignored).cumsum(1)[:, hit] if ignored.any() else shown[:, hit]
        found[there, t] = interpolated_precision(own[:, hit].cumsum(1), before, objects).mean(1)
    return found
