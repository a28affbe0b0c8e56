"""Which trials a sweep stops early: asynchronous successive halving (ASHA), or none.

Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, https://arxiv.org/abs/1810.05934.

A decision follows from the reports before it, in their order, and from nothing else: a sweep that is started
again replays its record and is where it was.
"""

import math
from dataclasses import dataclass, field

REDUCTION = 3
"""One in so many trials continues at every rung."""


@dataclass(frozen=True)
class Report:
    """What a trial reported after an evaluation."""

    trial: int
    epoch: int
    """Whole epochs behind it, at least 1."""
    value: float
    """Of the sweep's metric."""


@dataclass
class Halving:
    """Stops what is not among the best third of a rung, among those that have reached it so far.

    The rungs are at `grace`, 3 x `grace`, 9 x `grace`, ... epochs. A trial is judged once at each, by its
    first report there or later; a report that jumps over rungs is judged at the highest it has reached.
    """

    grace: int
    """Epochs that every trial gets."""
    maximise: bool = True
    rungs: dict[int, dict[int, float]] = field(default_factory=dict)
    """Value of every trial that was judged, higher always better, by epochs of the rung."""

    def stops(self, report: Report) -> bool:
        """Take a report; return whether its trial is stopped."""
        rung = self.rung_of(report.epoch)
        if rung is None:
            return False
        judged = self.rungs.setdefault(rung, {})
        if report.trial in judged:
            return False
        score = report.value if self.maximise else -report.value
        judged[report.trial] = score if math.isfinite(score) else -math.inf
        return not self._is_among_best(judged, report.trial)

    def rung_of(self, epoch: int) -> int | None:
        """Return the highest rung that is reached by `epoch`; None before the first."""
        rung = None
        reached = self.grace
        while reached <= epoch:
            rung, reached = reached, reached * REDUCTION
        return rung

    @staticmethod
    def _is_among_best(judged: dict[int, float], trial: int) -> bool:
        better = sum(score > judged[trial] for score in judged.values())
        return better < max(1, len(judged) // REDUCTION)


@dataclass
class NoHalving:
    """Lets every trial train to its end."""

    def stops(self, report: Report) -> bool:
        """Stop nothing."""
        return False


Scheduler = Halving | NoHalving
