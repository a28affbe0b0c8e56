"""Copying pieces to the host's memory quickly, for a thread to write them while the originals change."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qdet.checkpoint.pieces import Piece


class HostCopy:
    """Memory for one copy of a rank's pieces, kept from checkpoint to checkpoint.

    Fresh memory would cost more than the copy itself; for a GPU it is pinned, so that all copies run at once.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return copies that stay as they are until the next call."""
        self._memory = {piece.key: self._room(piece) for piece in pieces}
        for piece in pieces:
            self._memory[piece.key].copy_(piece.values, non_blocking=True)
        if any(piece.values.is_cuda for piece in pieces):
            torch.cuda.synchronize()
        return [Piece(piece.name, piece.start, self._memory[piece.key]) for piece in pieces]

    def _room(self, piece: Piece) -> Tensor:
        room, values = self._memory.get(piece.key), piece.values
        if room is not None and room.shape == values.shape and room.dtype == values.dtype:
            return room
        return torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
