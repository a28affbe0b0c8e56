"""Loggers by the names that `--track.loggers` gives them."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from qdet.errors import ConfigError
from qdet.storage import Folder
from qdet.tracking.tracker import Tracker

LOGGERS = {"tensorboard": ("tensorboardX", "tensorboard"), "wandb": ("wandb", "wandb")}
"""Name of a logger: the module that it needs, and the extra of qdet that installs it."""


def check_installed(names: Iterable[str]) -> None:
    """Raise unless what the loggers need is installed here.

    Raises:
        ConfigError: A module is missing; the message names the extra.
    """
    for name in names:
        module, extra = LOGGERS[name]
        if find_spec(module) is None:
            raise ConfigError(f"--track.loggers {name} needs {module}: pip install 'qdet[{extra}]'")


def open_loggers(
    names: Iterable[str], *, experiment: str, run: str, folder: Folder, scratch: Path
) -> list[Tracker]:
    """Return a tracker for each name; nothing is imported or connected before it logs.

    Args:
        names: Of `LOGGERS`.
        experiment: MLflow experiment.
        run: Name of the run.
        folder: The run's folder.
        scratch: Folder on this machine for files on their way.

    Raises:
        ConfigError: What one needs is not installed.
    """
    from qdet.tracking.loggers.tensorboard import TensorBoardTracker
    from qdet.tracking.loggers.weights_and_biases import WandbTracker

    check_installed(names)
    made: dict[str, Tracker] = {}
    for name in names:
        if name == "tensorboard":
            made[name] = TensorBoardTracker(folder.child("tensorboard"), scratch / "tensorboard")
        else:
            made[name] = WandbTracker(experiment, run, scratch / "wandb")
    return list(made.values())
