"""Trackers beside MLflow, each on a thread of its own. In: what a run logs. Out: MLflow; training."""

from qdet.tracking.loggers.choose import LOGGERS, check_installed, open_loggers
from qdet.tracking.loggers.several import SeveralTrackers

__all__ = ["LOGGERS", "SeveralTrackers", "check_installed", "open_loggers"]
