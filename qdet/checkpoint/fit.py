"""Check that a checkpoint fits a detector, and load its weights."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from qdet.checkpoint.reading import Checkpoint
from qdet.errors import CheckpointError


def check_start(start: Checkpoint, *, detector: str, classes: Sequence[str]) -> None:
    """Raise a CheckpointError unless a job of this detector and these classes can start from `start`.

    `load_weights` compares the shape of every tensor.
    """
    theirs, names = str(start.job.get("detector")), start.state.categories["names"]
    if theirs != detector:
        raise CheckpointError(
            f"--store.init-from {start.folder} is of {theirs}, the job's detector of {detector}"
        )
    if len(names) != len(classes):
        raise CheckpointError(
            f"--store.init-from {start.folder} has {_list_names(names)}, "
            f"but the shards have {_list_names(classes)}"
        )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: object) -> None:
    """Copy `weights` into `module`.

    Raises:
        CheckpointError: Names or shapes differ; the message lists them.
    """
    have = module.state_dict()
    missing = sorted(have.keys() - weights.keys())
    unknown = sorted(weights.keys() - have.keys())
    shapes = [
        f"{name} is {tuple(weights[name].shape)} there and {tuple(have[name].shape)} here"
        for name in sorted(have.keys() & weights.keys())
        if have[name].shape != weights[name].shape
    ]
    problems = [
        f"{len(names)} {what}, such as {'; '.join(names[:3])}"
        for what, names in (("are missing", missing), ("are unknown", unknown), ("differ in shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} is a checkpoint of another model: tensors {', '.join(problems)}")
    module.load_state_dict(weights)


def _list_names(names: Sequence[str]) -> str:
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} classes ({few})"
