"""Whether a run on workers that came and went learned what one worker alone would have."""

from pathlib import Path
from typing import Any

import pytest

from qdet.config import override
from qdet.launching import paths
from tests.support import tiny_job
from tests.support.mlflow_runs import ledgers, loss_curve
from tests.support.replay_run import replay_by_one_process

IMAGES = 48
"""Those of an epoch of the tiny job's data."""


def to_flags(settings: dict[str, Any]) -> list[str]:
    """Return settings as command-line flags."""
    typed = {path: value[0] if isinstance(value, tuple) else value for path, value in settings.items()}
    return [word for path, value in typed.items() for word in (f"--{path.replace('_', '-')}", str(value))]


def assert_equals_one_worker(project: Path, run: str, settings: dict[str, Any]) -> None:
    """Assert that every step has the loss of one worker and that no image was lost or duplicated.

    Args:
        project: Holds the store, and MLflow's database.
        run: Its name; of the tiny job, with all its checkpoints.
        settings: That it was started with.
    """
    (project / "again").mkdir()
    steps = settings["train.steps"]
    job = paths.resolve(override(tiny_job.job, settings))
    again, distances = replay_by_one_process(job, project / "outputs" / run, project / "again")
    found = loss_curve(project, run, steps)
    assert found == pytest.approx(again, rel=1e-6)
    # Moments are sums of gradients. Rounding is some 4e-7 of them; 7e-5 where it decides which of two queries
    # matches an object; and 5e-2 at the start, when all queries predict the same box.
    first, *others = (distances[step] for step in sorted(distances))
    assert first < 0.2
    assert max(others) < 1e-3
    worst = max(abs(found[step] / again[step] - 1) for step in again)
    print(f"losses off by {worst:.1e}, checkpoints by {first:.1e}, then {max(others):.1e}, at most")
    counted = ledgers(project, run)
    assert len(counted) >= steps * settings["train.batch_size"] // IMAGES
    assert set(counted) == {(0, 0)}
