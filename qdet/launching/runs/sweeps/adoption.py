"""A member of a population gets the checkpoint of another, and continues from there as the run that it is."""

from qdet.checkpoint import RunFolder, open_folder
from qdet.checkpoint.copying import copy_checkpoint
from qdet.errors import CheckpointError, ConfigError
from qdet.launching.runs.claim import hold_run
from qdet.launching.runs.sweeps.record import Trial
from qdet.launching.runs.sweeps.session import trial_name
from qdet.storage import Folder


def adopt_checkpoint(store: str, sweep: str, trial: Trial, winner: Trial, step: int) -> None:
    """Put the winner's checkpoint after `step` steps in place of the trial's; neither is running.

    Args:
        store: Folder or URL of all runs.
        sweep: Name of the sweep.
        trial: Whose run gets it.
        winner: Whose run has it.
        step: Optimizer steps behind both.

    Raises:
        CheckpointError: It is not intact, or another process writes the trial's run.
    """
    source, name = _at(store, trial_name(sweep, winner.label), step), trial_name(sweep, trial.label)
    try:
        with hold_run(store, name) as held:
            copy_checkpoint(source, _at(store, name, step), fence=held.fence)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def saved_metrics(store: str, name: str, step: int) -> dict[str, float]:
    """Return what an evaluation after `step` steps of a run has found, as its checkpoint says."""
    manifest = RunFolder(open_folder(store).child(name)).manifests().get(step)
    return {} if manifest is None else dict(manifest.metrics)


def _at(store: str, name: str, step: int) -> Folder:
    return RunFolder(open_folder(store).child(name)).at(step)
