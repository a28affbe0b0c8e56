"""Write a checkpoint: every rank its share, then rank 0 the manifest.

There are no collectives here. Each rank reports its share by a small file beside it; rank 0 waits for those
of its own attempt.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from qdet.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from qdet.checkpoint.pieces import Piece
from qdet.checkpoint.rank_file import Fingerprint, fingerprint, write_pieces
from qdet.checkpoint.state import TrainState
from qdet.errors import CheckpointError
from qdet.storage import Folder
from qdet.storage.lease import Fence
from qdet.storage.parsing import parse_json

PATIENCE = 600.0
"""Seconds that rank 0 waits for the other ranks' shares."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What rank 0 adds to all ranks' tensors."""

    attempt: str
    world_size: int
    state: TrainState
    job: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]
    """Shape of every whole tensor, by kind and name."""
    zero: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def share_name(rank: int, attempt: str) -> str:
    """Return the name of the file with a rank's tensors, without extension."""
    return f"rank_{rank:05d}.{attempt}"


def write_share(
    folder: Folder,
    *,
    rank: int,
    attempt: str,
    pieces: Sequence[Piece],
    check: Callable[[str], None] | None = None,
) -> None:
    """Write one rank's pieces, then the file that reports them, unless `check` raises."""
    name = share_name(rank, attempt)
    written = write_pieces(folder, f"{name}.safetensors", pieces)
    if check is not None:
        check(f"{name}.safetensors")
    folder.put(f"{name}.json", json.dumps(asdict(written) | {"attempt": attempt}).encode())


def commit(
    folder: Folder,
    contents: Contents,
    *,
    fence: Fence | None = None,
    give_up: threading.Event | None = None,
    patience: float = PATIENCE,
) -> Manifest:
    """Wait for the shares of all ranks, then complete the checkpoint (rank 0).

    Args:
        folder: Where the shares are written.
        contents: What else is in the checkpoint.
        fence: Term of the lease of the run, where one is held.
        give_up: Set when a share is known not to come.
        patience: Seconds to wait for shares.

    Raises:
        CheckpointError: A share is missing.
        LeaseError: Another process has taken over the run.
    """
    files = _await_shares(folder, contents, give_up or threading.Event(), patience)
    roles = {"state": asdict(contents.state), "job": dict(contents.job), "tensors": dict(contents.shapes)}
    for role, content in roles.items():
        name, text = f"{role}.{contents.attempt}.json", json.dumps(content, indent=1, default=str).encode()
        folder.put(name, text)
        files[name] = fingerprint(text)
    manifest = Manifest(
        step=contents.state.step,
        attempt=contents.attempt,
        world_size=contents.world_size,
        zero=contents.zero,
        metrics=dict(contents.metrics),
        files=files,
    )
    sizes = folder.sizes()
    for name, print_ in files.items():
        if sizes.get(name, -1) != print_.bytes and folder.size(name) != print_.bytes:
            raise CheckpointError(f"cannot complete checkpoint {folder}: {name} was there and is gone")
    put_manifest(folder, manifest.render(), fence)
    # Nothing else is removed: an attempt presumed dead must not delete files of a live one.
    folder.remove_each([f"{share_name(rank, contents.attempt)}.json" for rank in range(contents.world_size)])
    return manifest


def put_manifest(folder: Folder, content: bytes, fence: Fence | None) -> None:
    """Complete a checkpoint, unless another process has taken over the run."""
    if fence is None:
        folder.put(MANIFEST, content)
        return
    fence.check()
    if folder.local is not None and folder.create(MANIFEST, content):
        return
    # Where one is there already, it is damaged or of an earlier term, or of a driver that took over just now.
    fence.check()
    folder.put(MANIFEST, content)


def add_metrics(folder: Folder, metrics: Mapping[str, float]) -> bool:
    """Add the metrics of a later evaluation to a complete checkpoint; return False where it has some already.

    Raises:
        CheckpointError: It has no intact manifest.
    """
    manifest = read_manifest(folder)
    if manifest.metrics or not metrics:
        return False
    folder.put(MANIFEST, replace(manifest, metrics=dict(metrics)).render())
    return True


def _await_shares(
    folder: Folder, contents: Contents, give_up: threading.Event, patience: float
) -> dict[str, Fingerprint]:
    expected = [share_name(rank, contents.attempt) for rank in range(contents.world_size)]
    deadline, pause = time.monotonic() + patience, 0.02
    while missing := {f"{name}.json" for name in expected} - set(folder.names()):
        if give_up.is_set():
            raise CheckpointError(f"cannot complete checkpoint {folder}: a rank could not write its share")
        if time.monotonic() > deadline:
            ranks = ", ".join(
                sorted(name.split(".")[0].removeprefix("rank_").lstrip("0") or "0" for name in missing)
            )
            raise CheckpointError(
                f"cannot complete checkpoint {folder}: after {patience:.0f} s the share of rank {ranks} is "
                "not there; see whether all workers write to the same --store.path, and how fast it is"
            )
        give_up.wait(pause)
        pause = min(2 * pause, 1.0)
    reports = map(parse_json, folder.read_each([f"{name}.json" for name in expected]))
    return {
        f"{name}.safetensors": Fingerprint(bytes=said["bytes"], sha256=said["sha256"])
        for name, said in zip(expected, reports, strict=True)
    }


def write_whole(
    folder: Folder, tensors: Mapping[str, Tensor], *, state: TrainState, job: Mapping[str, Any]
) -> Manifest:
    """Write `tensors`, named by kind and name as in `Checkpoint`, as a checkpoint into `folder`.

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
