"""The live table of a sweep: what it shows of a recorded sequence, at a terminal and through a pipe."""

from io import StringIO
from pathlib import Path

import pytest

from qdet.console import open_console
from qdet.job import Job, Sweep
from qdet.launching.display.trials import Standing, TrialLine, TrialsTable, open_trials
from qdet.launching.ray_backend.worker_output import WorkerOutput
from qdet.launching.runs.sweeps.course import Course
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore
from qdet.launching.runs.sweeps.standing import standing
from qdet.search import Choice
from qdet.training.reporting import PlainLines

SWEEP = Sweep(
    space={"optim.lr": Choice((1e-3, 1e-4)), "detector.backbone.weights": Choice(("[red]a[/]", "b"))}
)


def _course(folder: Path) -> Course:
    """A sweep of which one trial was stopped, one has failed and one is running."""
    store, file = SweepStore.at(str(folder), "night"), SweepFile.of("night", Job(name="x"), SWEEP, digest="")
    store.write(file)
    course = Course(SWEEP, file, store)
    for number, values in ((1, [0.2, 0.5]), (2, [0.1]), (3, []), (4, [0.4])):
        course.start(number)
        for epoch, value in enumerate(values, start=1):
            course.report(number, epoch=epoch, step=9 * epoch, metrics={"val/AP": value}, last=False)
    course.end(3, "failed", "DataError: x")
    return course


def _draw(course: Course, lines: tuple[str, ...] = (), *, height: int = 20) -> str:
    console = open_console(file=StringIO(), width=120)
    console.size = console.size._replace(height=height)  # type: ignore[misc]
    table = TrialsTable(console, lambda: standing(course), now=lambda: 61.0)
    for line in lines:
        assert table.take(line)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_shows_what_runs_first_and_then_the_best(tmp_path):
    course = _course(tmp_path)
    drawn = _draw(course, ("trial t01: step 20/90 loss 3.1 ETA 1:00", "trial t02: step 9/90 loss 9"))
    head, *rows, foot = drawn.rstrip().splitlines()
    assert head.split() == ["trial", "state", "epoch", "val/AP", "lr", "weights", "now"]
    assert [row.split()[0] for row in rows] == ["t01", "t04", "t02", "t03"]
    assert rows[0].split()[1:4] == ["running", "2", "0.5000"]
    assert rows[0].rstrip().endswith("step 20/90 loss 3.1 ETA 1:00")
    assert "stopped early" in rows[2]
    assert "step 9/90" not in rows[2]  # it is over
    assert rows[3].split()[1:4] == ["failed", "0", "-"]
    assert foot.split(", ") == ["night: 2 running", "1 stopped early", "1 failed", "12 to come", "0:00"]


def test_what_a_trial_does_now_takes_no_room_from_the_other_columns(tmp_path):
    """At 120 columns a line of progress is longer than the rest of the terminal."""
    lines = [f"trial t01: step 20/90  loss 3.1 ({', '.join(f'term{n} 1.000' for n in range(12))})  ETA 1:00"]
    narrow = _draw(_course(tmp_path), tuple(lines)).splitlines()
    plain = _draw(_course(tmp_path)).splitlines()
    assert all(len(line) <= 120 for line in narrow)
    assert [line.split("now")[0].rstrip() for line in narrow[:1]] == [plain[0].split("now")[0].rstrip()]
    start = plain[0].index("now")
    assert [line[:start] for line in narrow] == [line.ljust(120)[:start] for line in plain]
    assert narrow[1].rstrip().endswith("\u2026")
    assert "term0 1.000" in narrow[1]


def test_data_is_never_markup(tmp_path):
    course = _course(tmp_path)
    drawn = _draw(course)
    tried = [course.settings(number)["detector.backbone.weights"] for number in range(1, 5)]
    assert drawn.count("[red]a[/]") == tried.count("[red]a[/]") > 0


def test_a_table_that_is_taller_than_the_terminal_says_what_it_leaves_out():
    rows = [
        TrialLine(trial=f"t{n:02d}", state="finished", epoch=9, metric=0.5, settings=()) for n in range(30)
    ]
    found = Standing(name="night", metric="val/AP", columns=(), trials=30, rows=rows)
    console = open_console(file=StringIO(), width=80)
    console.size = console.size._replace(height=12)  # type: ignore[misc]
    with console.capture() as captured:
        console.print(TrialsTable(console, lambda: found))
    lines = captured.get().rstrip().splitlines()
    assert len(lines) == 9
    assert "30 finished, 23 more rows" in lines[-1]


def test_through_a_pipe_there_is_no_table_and_every_line_is_printed(tmp_path, capsys):
    with open_trials(lambda: pytest.fail("nobody looks"), console=open_console(file=StringIO())) as take:
        WorkerOutput(PlainLines(), take)({"ip": "a", "pid": 1, "lines": ["trial t01: step 2/9 loss 1"]})
    assert capsys.readouterr().out == "trial t01: step 2/9 loss 1\n"


def test_at_a_terminal_progress_is_in_the_table_and_other_lines_above_it(tmp_path, capsys):
    screen = StringIO()
    console = open_console(file=screen, width=120)
    console._force_terminal = True
    course = _course(tmp_path)
    with open_trials(lambda: standing(course), console=console) as take:
        lines = ["trial t01: step 20/90 loss 3.1 ETA 1:00", "trial t01: evaluation: AP 0.2"]
        WorkerOutput(PlainLines(), take)({"ip": "a", "pid": 1, "lines": lines})
    assert "t01" in screen.getvalue()
    assert "evaluation: AP 0.2" in screen.getvalue()  # above the table, which redirects stdout
    assert capsys.readouterr().out == ""
