"""Write a checkpoint that holds next to nothing, check it and remove it: whether saving will work at all."""

from collections.abc import Callable
from contextlib import suppress

from qdet.checkpoint import Piece, verify
from qdet.checkpoint.writing import Contents, commit, write_share
from qdet.errors import CheckpointError
from qdet.storage import Folder
from qdet.training.checkpointing.save import CheckpointWriter

PATIENCE = 60.0
"""Seconds to wait for the shares, which all ranks have written by then."""


def rehearse(writer: CheckpointWriter, piece: Piece, contents: Callable[[], Contents]) -> None:
    """Write, check and remove a checkpoint in a folder of its own in the run's. Collective.

    Args:
        writer: That of the training.
        piece: A small part of a tensor of this rank.
        contents: Returns the rest; called on rank 0.

    Raises:
        CheckpointError: It cannot be written or read back, on every rank.
    """
    folder, world = writer.run.folder.child(f".sanity_{writer.attempt}"), writer.world
    causes = [cause for cause in world.gather(_write(folder, writer, piece)) if cause]
    world.on_main(lambda: _complete(folder, contents, causes))


def _write(folder: Folder, writer: CheckpointWriter, piece: Piece) -> str | None:
    """Write this rank's share; return why it could not."""
    copy = Piece(piece.name, piece.start, piece.values.detach().cpu().clone())
    try:
        write_share(folder, rank=writer.world.rank, attempt=writer.attempt, pieces=[copy])
    except Exception as error:  # every kind of store has errors of its own
        return f"rank {writer.world.rank}: {type(error).__name__}: {error}"
    return None


def _complete(folder: Folder, contents: Callable[[], Contents], causes: list[str]) -> None:
    try:
        if causes:
            raise CheckpointError("; ".join(causes))
        commit(folder, contents(), patience=PATIENCE)
        verify(folder)
    except Exception as error:  # every kind of store has errors of its own
        raise CheckpointError(
            f"a checkpoint written before the first step, to see whether that works, failed in {folder}: "
            f"{error}; see to --store.path on all machines of the run"
        ) from error
    finally:
        with suppress(Exception):
            folder.remove_all()
