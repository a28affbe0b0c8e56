"""Looking at checkpoints: which a run has, which are whole, which one is taken, and its model as one file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdet.checkpoint import Checkpoint, Manifest, RunFolder, verify
from qdet.checkpoint.manifest import MANIFEST, read_manifest
from qdet.checkpoint.reading import export
from qdet.checkpoint.run_folder import METRIC
from qdet.checkpoint.run_names import require_folder
from qdet.errors import CheckpointError
from qdet.storage import Folder


@dataclass(frozen=True)
class Look:
    """What one folder turned out to be."""

    folder: Folder
    manifest: Manifest | None
    """None where it cannot be read."""
    problem: str | None
    """Why it would not be taken; None where every byte of it is as written."""

    def as_json(self) -> dict[str, Any]:
        """Say it to programs."""
        found: dict[str, Any] = {"folder": str(self.folder), "good": self.problem is None}
        if self.manifest is not None:
            found |= {
                "step": self.manifest.step,
                "bytes": self.manifest.size,
                "world_size": self.manifest.world_size,
                "zero": self.manifest.zero,
                "metrics": dict(self.manifest.metrics),
            }
        return found | {"problem": self.problem}

    def row(self) -> str:
        """Say it in one line."""
        end = self.problem or "good"
        if self.manifest is None:
            return f"{self.folder.name:<14}{'':>38}  {end}"
        m, ap = self.manifest, self.manifest.metrics.get(METRIC)
        shown = "-" if ap is None else f"{ap:.4f}"
        size = f"{m.size / 1e6:,.1f} MB"
        return f"{self.folder.name:<14}{size:>14}{m.world_size:>7}{m.zero:>6}{shown:>11}  {end}"


def look(url: str | Path) -> list[Look]:
    """Look at every byte of one checkpoint, or of all of a run, oldest first.

    Raises:
        CheckpointError: There is neither in the folder.
        ConfigError: It is the beginning of several runs' names.
    """
    folder = require_folder(url)
    run = RunFolder(folder)
    found = [run.at(step) for step in run.steps()]
    if not found and folder.size(MANIFEST) is not None:
        found = [folder]
    if not found:
        raise CheckpointError(
            f"{url} holds no checkpoint: neither folders like step_000500, as a run has, nor a {MANIFEST}"
        )
    return [_look(one) for one in found]


def choose_newest(looks: list[Look]) -> Look:
    """Return the one that training would resume: the newest without a problem.

    Raises:
        CheckpointError: All have one.
    """
    for one in reversed(looks):
        if one.problem is None:
            return one
    raise CheckpointError(f"none of {len(looks)} checkpoints is whole; the newest: {looks[-1].problem}")


def show(looks: list[Look]) -> str:
    """Return what was found as a table, and which one would be resumed."""
    head = f"{'checkpoint':<14}{'size':>14}{'ranks':>7}{'ZeRO':>6}{METRIC:>11}"
    good = [one for one in looks if one.problem is None]
    end = f"training resumes from {good[-1].folder}" if good else "training resumes from none of them"
    return "\n".join([head, *(one.row() for one in looks), end])


def show_json(looks: list[Look]) -> str:
    """Return the same for programs."""
    good = [str(one.folder) for one in looks if one.problem is None]
    content = {"checkpoints": [one.as_json() for one in looks], "chosen": good[-1] if good else None}
    return json.dumps(content, indent=1)


def export_model(one: Look, file: Path, *, ema: bool = False, weights: bool = False) -> str:
    """Write the model of a checkpoint to one file; return a line that says where.

    Args:
        one: The checkpoint, without a problem.
        file: Name of the new file.
        ema: Insist on averaged weights.
        weights: Take the weights that were trained, not their average.

    Raises:
        CheckpointError: There is no average, or the file cannot be written.
    """
    saved = Checkpoint(one.folder, verified=True)
    average = bool(saved.names("average"))
    if ema and not average:
        raise CheckpointError(
            f"--ema: {one.folder} holds no averaged weights; its job has --optim.ema-decay 0"
        )
    beside = export(saved, file, averaged=not weights)
    kind = "averaged weights" if average and not weights else "weights"
    return f"wrote the {kind} after step {saved.state.step} to {file}, the job beside them to {beside}"


def _look(folder: Folder) -> Look:
    manifest = None
    try:
        manifest = read_manifest(folder)
        verify(folder)
    except CheckpointError as error:
        return Look(folder, manifest, str(error))
    return Look(folder, manifest, None)
