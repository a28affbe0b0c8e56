"""Running a bad step again on this machine's CPU, and showing what went through every layer."""

from pathlib import Path

import torch

from qdet.checkpoint.run_names import require_folder
from qdet.config import restore
from qdet.errors import CheckpointError
from qdet.job import Job
from qdet.training.nonfinite import record as bad_step
from qdet.training.nonfinite.diagnose import retrace
from qdet.training.nonfinite.hooks import Layer
from qdet.training.nonfinite.record import BadStep
from qdet.training.nonfinite.trace import Trace


def replay(file: str | Path) -> str:
    """Run the step in `file` again; return its first bad layer and the range of values of every layer.

    Args:
        file: A bad step by path or URL, or a run, of which the last one is taken.

    Raises:
        QdetError: The file is not a bad step, or of a version whose settings this one does not have.
    """
    bad = bad_step.read(file if Path(file).suffix == ".safetensors" else _find_last(file))
    job = restore(Job, bad.facts.job)
    criterion = job.loss.build(bad.facts.classes)
    return _report(bad, retrace(job, bad, criterion, torch.device("cpu")))


def _find_last(run: str | Path) -> str:
    """Return the path or URL of the last bad step of a run, named as anywhere."""
    folder = require_folder(run)
    kept = [name for name in folder.names() if Path(name).match("bad_step_*.safetensors")]
    if not kept:
        raise CheckpointError(f"{folder} holds no bad_step_*.safetensors: no step of this run was skipped")
    return folder.child(kept[-1]).url


def _report(bad: BadStep, trace: Trace) -> str:
    facts = bad.facts
    ids = facts.image_ids[trace.micro_batch]
    losses = ", ".join(f"{loss:.6g}" for loss in trace.losses)
    lines = [
        f"step {facts.step + 1} of job {facts.job['name']}, by worker {facts.rank} of {facts.world_size}",
        f"micro-batch {trace.micro_batch + 1} of {len(facts.image_ids)}: images {', '.join(map(str, ids))}",
        f"loss of every micro-batch up to it: {losses}",
        "",
        *_table(trace.layers),
        "",
    ]
    if trace.first_bad is None:
        lines.append(
            "everything is finite here: the fault needs what this machine does not have (a GPU's arithmetic "
            "and random numbers, other workers), or came and went"
        )
    else:
        lines.append(f"the first that is not finite: {trace.first_bad.what}")
        if trace.first_bad.rows:
            lines.append(f"in images {', '.join(str(ids[row]) for row in trace.first_bad.rows)}")
    return "\n".join(lines)


def _table(layers: list[Layer]) -> list[str]:
    """One line per call of a module, in the order in which they returned."""
    rows = [("layer", "class", "least", "greatest", "not finite", "gradient"), *map(_row, layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(layer: Layer) -> tuple[str, ...]:
    gradient = "" if layer.gradient is None else f"{layer.gradient:.3g}"
    bad = f"{layer.bad:.1%}" if layer.bad else ""
    return layer.name or "(all)", layer.kind, f"{layer.low:.4g}", f"{layer.high:.4g}", bad, gradient
