"""What a sweep says at its start and at its end."""

from qdet.errors import TrainingError
from qdet.job import Job
from qdet.launching import paths
from qdet.launching.runs.report import ui_command
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import Trial
from qdet.launching.runs.sweeps.table import Swept, TrialRow, table
from qdet.launching.runs.typed import as_flags, train_command


def row_of(course: Course, trial: Trial) -> TrialRow:
    """Return one trial as a row."""
    return TrialRow.of(trial, course.settings(trial.number), course.sweep.metric)


def list_rows(course: Course) -> list[TrialRow]:
    """Return the trials that are known as rows, by number."""
    return [row_of(course, trial) for _, trial in sorted(course.trials.items())]


def describe_start(course: Course) -> str:
    """Say what is searched, and how much of it is left."""
    name, left, sweep = course.file.name, len(course.waiting), course.sweep
    what = f"sweep {name}: {sweep.runs} trials of {', '.join(sweep.space)}"
    if course.trials:
        return f"{what}; {sweep.runs - left} have ended, {left} are left"
    return f"{what} (the same command resumes it with --store.run {name})"


def conclude(course: Course, job: Job, *, advice: bool) -> Swept:
    """Print how the sweep ended: the table, the best, what to do next.

    Raises:
        TrainingError: No trial was evaluated.
    """
    rows, sweep, run_id = list_rows(course), course.sweep, course.file.mlflow_run_id
    swept = Swept(course.file.name, sweep.metric, rows, run_id, sweep.mode)
    print(table(rows, sweep), flush=True)
    if course.spent:
        print(f"{course.spent}; with more, the same command resumes the sweep")
    best = swept.best
    if best is None:
        first = next((row.error for row in rows if row.error), "none ran")
        raise TrainingError(f"all {sweep.runs} trials failed; the first: {first}")
    if advice:
        print(f"best setting: {as_flags(best.settings)}")
        print(f"train {job.name} with it: {train_command(best.settings)}")
    if run_id is not None:
        page = ui_command(paths.tracking_uri()).removeprefix("qdet ")
        print(f"compare the trials: {paths.program('qdet')} {page} --sweeps", flush=True)
    return swept
