"""How a sweep stands while it runs, for the table in a terminal."""

from qdet.launching.display.trials import Standing, TrialLine
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import Trial
from qdet.launching.runs.sweeps.table import TrialRow, best_first, short_path
from qdet.launching.runs.typed import show_value


def standing(course: Course) -> Standing:
    """Return how a sweep stands; trials may report meanwhile."""
    sweep, trials = course.sweep, {trial.label: trial for trial in list(course.trials.values())}
    rows = [TrialRow.of(trial, course.settings(trial.number), sweep.metric) for trial in trials.values()]
    return Standing(
        name=course.file.name,
        metric=sweep.metric,
        columns=[short_path(path, sweep.space) for path in sweep.space],
        trials=sweep.runs,
        rows=[_line(row, trials[row.trial], list(sweep.space)) for row in best_first(rows, sweep.mode)],
    )


def _line(row: TrialRow, trial: Trial, paths: list[str]) -> TrialLine:
    settings = [show_value(row.settings[path]) if path in row.settings else "-" for path in paths]
    return TrialLine(
        trial=row.trial, state=row.state, epoch=trial.epoch, metric=row.metric, settings=settings
    )
