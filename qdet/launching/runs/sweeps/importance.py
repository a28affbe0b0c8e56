"""How much of the differences between trials each setting explains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from qdet.job import Sweep
from qdet.launching.runs.sweeps.curves import Curve, compared_epoch
from qdet.launching.runs.typed import show_value
from qdet.search import LogUniform, Uniform, plain


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Of one setting."""

    path: str
    share: float | None
    """Of the differences between trials, in [0, 1]; None where too few trials tell."""
    trials: int
    """That had the setting."""


def rank_settings(curves: Sequence[Curve], sweep: Sweep) -> list[Importance]:
    """Return what every setting of the space explains, the most important first.

    Trials are compared after the last epoch that all of them have reached. Shares of several settings need
    not add up to 1.

    Args:
        curves: Of the trials that were evaluated.
        sweep: What was searched.
    """
    epoch = compared_epoch(curves)
    found = []
    for path, space in sweep.space.items():
        known = [one for one in curves if path in one.settings and epoch in one.values]
        tried, scores = [one.settings[path] for one in known], [one.values[epoch] for one in known]
        is_range = isinstance(plain(space), Uniform | LogUniform)
        share = explain_by_range(tried, scores) if is_range else explain_by_options(tried, scores)
        found.append(Importance(path=path, share=share, trials=len(known)))
    return sorted(found, key=lambda one: -1.0 if one.share is None else one.share, reverse=True)


def explain_by_range(values: Sequence[float], scores: Sequence[float]) -> float | None:
    """Return the share of the variance of the scores' ranks that a parabola in the values' ranks explains.

    It is R^2, adjusted for the number of trials, which is 0 on average where nothing is explained. None for
    fewer than five trials, or where all are equal.
    """
    if len(scores) == 0:
        return None
    ranks = rankdata(values)
    centred = (ranks - ranks.mean()) / max(1, len(ranks))
    return _adjusted(np.stack([np.ones_like(centred), centred, centred**2], axis=1), scores)


def explain_by_options(values: Sequence[object], scores: Sequence[float]) -> float | None:
    """Return the share of the variance of the scores' ranks that lies between options.

    It is R^2, adjusted for the number of trials: the epsilon squared of a Kruskal-Wallis test. None where
    all trials had the same option, or hardly two the same.
    """
    names = [show_value(value, 17) for value in values]
    return _adjusted(np.array([[name == one for one in sorted(set(names))] for name in names], float), scores)


def _adjusted(predictors: np.ndarray, scores: Sequence[float]) -> float | None:
    """Return the adjusted R^2 of a linear regression of ranks on predictors [N, K], at least 0."""
    count, goal = len(scores), rankdata(scores)
    free = count - (int(np.linalg.matrix_rank(predictors)) if count else 0)
    total = float(np.square(goal - goal.mean()).sum()) if count else 0.0
    if free < 2 or free == count - 1 or total == 0:
        return None
    weights = np.linalg.lstsq(predictors, goal, rcond=None)[0]
    left = float(np.square(goal - predictors @ weights).sum())
    return max(0.0, 1 - (left / free) / (total / (count - 1)))
