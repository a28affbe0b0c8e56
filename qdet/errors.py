"""The errors qdet raises for what a user can cause, each naming the file, flag or value and what to do.

    QdetError
    ├── ConfigError        a flag or setting that cannot work             (also a ValueError)
    ├── DataError          a dataset, annotation file, image or shard     (also a ValueError)
    ├── StorageError       a folder or URL that cannot be read or written (also an OSError)
    ├── CheckpointError    a checkpoint that is torn, of another model, or missing  (also a ValueError)
    │   ├── UnreadableCheckpointError   its store does not answer
    │   └── NewerCheckpointError        a later version of qdet wrote it
    ├── ExportError        a model that another format cannot hold        (also a ValueError)
    ├── EvaluationError    detections that COCO AP cannot be computed of  (also a ValueError)
    ├── TrackingError      an MLflow server that does not answer or refuses
    ├── DivergedError      predictions that are no numbers any more        (also an ArithmeticError)
    ├── LeaseError         a run that another driver writes
    ├── CorruptionError    workers that compute, or hold, other bytes than they must
    ├── ClusterError       a Ray cluster, port or address that does not answer
    └── TrainingError      a run whose workers failed, with the cause

Programming mistakes raise the usual built-in exceptions.
"""

import difflib
from collections.abc import Iterable
from typing import TypeVar

from qdet.masking import mask

Raised = TypeVar("Raised", bound="QdetError")


class QdetError(Exception):
    """Something the user can mend; the command line prints its message without a traceback.

    Messages name what the user gave, which may be a URL with a password: secrets are masked, as errors end
    up in many logs.
    """

    transient: bool = False
    """Nothing that the user gave is wrong: a server was away, and the same may succeed when started again."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(mask(arg) if isinstance(arg, str) else arg for arg in args))

    def because_of(self: Raised, cause: BaseException) -> Raised:
        """Return this error, as transient as its cause."""
        self.transient = bool(getattr(cause, "transient", False))
        return self


class ConfigError(QdetError, ValueError):
    """A setting cannot work; the message names its flag."""


class DataError(QdetError, ValueError):
    """A dataset cannot be read as it is; the message names the file and, where there is one, the image."""


class StorageError(QdetError, OSError):
    """A folder, file or URL cannot be opened, read or written; the message names it."""


class CheckpointError(QdetError, ValueError):
    """A checkpoint is torn, of another model, or not there."""


class UnreadableCheckpointError(CheckpointError):
    """A store does not give a checkpoint now; nothing says that it is damaged."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint is intact, but a later version of qdet wrote it."""


class ExportError(QdetError, ValueError):
    """A model cannot be written in another format, or computes something else there."""


class EvaluationError(QdetError, ValueError):
    """Detections are not finite or not of the planned images; the message names the image."""


class TrackingError(QdetError):
    """An MLflow server does not answer, or does not take what it is given."""


class DivergedError(QdetError, ArithmeticError):
    """Training produced NaN or infinity; the message names the stage, the image and what to change."""


class LeaseError(QdetError):
    """Another process writes what this one was to write; the message names it."""


class CorruptionError(QdetError):
    """A worker computed, or holds, other bytes than it must; the message names its host."""

    transient = True


class ClusterError(QdetError):
    """A Ray cluster cannot be reached or brought up."""


class TrainingError(QdetError):
    """The workers of a run failed more often than the job allows."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message, " Did you mean ...?", where one of the `known` names is near, or ""."""
    near = closest(name, known)
    return f" Did you mean {near}?" if near else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return that of the `known` names which `name` is most likely a slip of; None: of none of them."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip() or type(error).__name__


def type_and_first_line(error: BaseException) -> str:
    """Return the type of an error that is not ours and the first line of what it says, without paths."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first = said.strip().partition("\n")[0].rstrip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, which says most of one that came from another process."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
