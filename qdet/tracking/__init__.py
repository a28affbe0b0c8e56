"""Logging of runs to MLflow, never on the training path."""

from qdet.tracking.database import prepare_database
from qdet.tracking.mlflow_run import has_ended
from qdet.tracking.mlflow_tracker import MLflowTracker
from qdet.tracking.sender import send_spool
from qdet.tracking.server import (
    COMMIT_VARIABLE,
    git_commit,
    tracking_environment,
    tracking_uri,
)
from qdet.tracking.tracker import ModelFacts, NullTracker, Status, Tracker

__all__ = [
    "COMMIT_VARIABLE",
    "MLflowTracker",
    "ModelFacts",
    "NullTracker",
    "Status",
    "Tracker",
    "git_commit",
    "has_ended",
    "prepare_database",
    "send_spool",
    "tracking_environment",
    "tracking_uri",
]
