"""Writing a checkpoint from one process that holds whole tensors, as conversion does."""

import secrets
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qdet.checkpoint.manifest import Manifest
from qdet.checkpoint.pieces import Piece
from qdet.checkpoint.state import TrainState
from qdet.checkpoint.writing import Contents, commit, write_share
from qdet.errors import CheckpointError
from qdet.storage.folder import Folder


def write_whole(
    folder: Folder, tensors: Mapping[str, Tensor], *, state: TrainState, job: Mapping[str, Any]
) -> Manifest:
    """Write `tensors`, called by kind and name as in `Saved`, as a checkpoint into `folder`.

    Raises:
        CheckpointError: It cannot be written; the folder then has no manifest.
    """
    attempt = secrets.token_hex(4)
    pieces = [Piece(n, 0, t.detach().cpu().reshape(-1)) for n, t in tensors.items() if t.numel()]
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    contents = Contents(attempt=attempt, world_size=1, state=state, job=job, shapes=shapes)
    try:
        write_share(folder, rank=0, attempt=attempt, pieces=pieces)
        return commit(folder, contents)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {folder}: {error}") from error
