"""What a person sees of a training: the bar, lines above it, and what arrives from workers."""

import dataclasses
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qdet.launching.display import events
from qdet.launching.display.live import LiveDisplay, open_display
from qdet.launching.ray_backend.worker_output import WorkerOutput, forwarded_to
from qdet.training.meter import RemainingTime
from qdet.training.reporting import (
    Evaluating,
    Evaluation,
    LocalReporter,
    PlainLines,
    Progress,
    clock,
    watched,
)

PROGRESS = Progress(
    step=600,
    steps=1200,
    epoch=4.8,
    loss=5.1234,
    losses={"classification": 1.5, "l1": 2.0, "giou": 1.6234},
    lr=1e-4,
    grad_norm=3.0,
    images_per_second=25.71,
    data_wait=0.02,
    memory=1.25e9,
    eta_seconds=3725.0,
)
FOUND = Evaluation(step=600, metrics={"val/AP": 0.4321, "val/AP50": 0.65, "val/AP75": 0.4}, before=0.4)
AT_WORK = Evaluating(step=600, done=3, batches=12)


class Recorder:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.got: list[events.Event] = []

    def progress(self, progress: Progress) -> None:
        self.got.append(progress)

    def evaluating(self, evaluating: Evaluating) -> None:
        self.got.append(evaluating)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.got.append(evaluation)


@given(
    st.lists(st.tuples(st.floats(0.001, 100), st.integers(1, 50)), min_size=1, max_size=20),
    st.integers(0, 500),
)
def test_remaining_time_is_a_mean_over_steps_weighted_by_their_age(
    readings: list[tuple[float, int]], steps: int
):
    """Against the literal sum: a step that n others came after counts 0.5 ** (n / half-life)."""
    remaining = RemainingTime(half_life=30.0)
    for seconds, count in readings:
        remaining.add(seconds, count)
    each = [seconds / count for seconds, count in readings for _ in range(count)]
    weights = [0.5 ** (after / 30.0) for after in range(len(each))][::-1]
    mean = sum(w * s for w, s in zip(weights, each, strict=True)) / sum(weights)
    assert remaining.estimate(steps) == pytest.approx(steps * mean, rel=1e-9)


def test_one_slow_reading_moves_the_estimate_little_and_a_lasting_change_is_followed():
    remaining = RemainingTime()
    assert math.isnan(remaining.estimate(10))
    remaining.add(0.0, 0)  # a reading without a step
    assert math.isnan(remaining.estimate(10))
    for _ in range(100):
        remaining.add(1.0, 10)
    remaining.add(4.0, 10)  # the old way would now say 4 times as much
    assert remaining.estimate(100) == pytest.approx(10, rel=0.25)
    for _ in range(60):
        remaining.add(4.0, 10)
    assert remaining.estimate(100) == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_bar_fits_the_terminal_and_shows_everything(width: int):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    display = LiveDisplay(console, "tiny-calm-owl")
    console.print(display)
    assert "tiny-calm-owl: starting" in _text(console)
    display.progress(PROGRESS)
    display.evaluated(FOUND)
    console.file = io.StringIO()
    console.print(display)
    lines = _text(console).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert re.fullmatch(r"step 600/1200 [━╺╸]+ +50% ETA 1:02:05\s*", lines[0])
    assert lines[1].split() == ["loss", "5.123", "classification", "1.500", "l1", "2.000", "giou", "1.623"]
    for part in ("epoch 4.80", "images/s 25.7", "data wait 2%", "memory 1.2 GB", "elapsed 0:0", "AP 0.432"):
        assert part in lines[2]


def test_an_evaluation_has_the_bar_until_it_is_over():
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    display = LiveDisplay(console, "x")

    def first_line() -> str:
        console.file = io.StringIO()
        console.print(display)
        return _text(console).splitlines()[0].strip()

    display.progress(PROGRESS)
    display.evaluating(AT_WORK)
    assert re.fullmatch(r"evaluating after step 600/1200 [━╺╸]+ +25%", first_line())
    display.evaluated(FOUND)
    assert first_line().startswith("step 600/1200 ")
    display.evaluating(AT_WORK)  # of the next one, which a restart of the workers cuts off
    display.progress(PROGRESS)
    assert first_line().startswith("step 600/1200 ")


def test_an_evaluation_is_shown_at_once_and_then_every_second():
    """Batches begin every 0.4 s: those at 0, 1.2 and 2.4 are the first that are a second apart."""
    times = iter([0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8])
    shown = list[Evaluating]()
    assert list(watched(range(8), 8, 600, shown.append, now=lambda: next(times))) == list(range(8))
    assert shown == [Evaluating(step=600, done=done, batches=8) for done in (0, 3, 6)]


def test_many_losses_are_cut_at_the_edge_not_wrapped():
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    display = LiveDisplay(console, "x")
    display.progress(dataclasses.replace(PROGRESS, losses={f"term{i}": 1.0 for i in range(20)}))
    console.print(display)
    lines = _text(console).splitlines()
    assert (len(lines), len(lines[1])) == (3, 80)


def test_in_a_terminal_lines_come_above_the_bar_and_the_last_progress_stays():
    out = io.StringIO()
    console = Console(width=120, file=out, force_terminal=True, color_system=None)
    with open_display("tiny", console=console) as display:
        display.progress(PROGRESS)
        print("step 7 is skipped on all workers: no reason")  # as any part of training does
        display.evaluated(FOUND)
    lines = [line.strip() for line in _text(console).splitlines()]
    kept = [
        line for line in lines if line.startswith(("step 7 is", "evaluated after", "step 600/1200  loss"))
    ]
    assert kept == [
        "step 7 is skipped on all workers: no reason",
        "evaluated after step 600: AP 0.4321 (+0.0321)  AP50 0.6500  AP75 0.4000",
        PROGRESS.line(),
    ]


def test_in_a_pipe_everything_is_a_plain_line(capsys: pytest.CaptureFixture):
    reporter = LocalReporter()
    with open_display("tiny", console=Console(file=io.StringIO())) as display:
        assert isinstance(display, PlainLines)
        reporter = LocalReporter(display=display)
        reporter.progress(PROGRESS)
        reporter.evaluating(AT_WORK)
        reporter.evaluated(300, {"val/AP": 0.4})
        reporter.evaluated(600, FOUND.metrics)
    assert capsys.readouterr().out.splitlines() == [
        "step 600/1200  loss 5.123 (classification 1.500, l1 2.000, giou 1.623)  25.7 images/s  "
        "waiting for data 2%  epoch 4.80  1.2 GB  ETA 1:02:05",
        "evaluated after step 300: AP 0.4000",
        "evaluated after step 600: AP 0.4321 (+0.0321)  AP50 0.6500  AP75 0.4000",
    ]


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture):
    reporter = LocalReporter(display=None)
    reporter.progress(PROGRESS)
    reporter.evaluated(1, {"val/AP": 0.1})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("event", [PROGRESS, AT_WORK, FOUND, dataclasses.replace(PROGRESS, loss=math.inf)])
def test_an_event_survives_the_way_from_worker_to_driver(event: events.Event, capsys):
    shown = Recorder()
    assert events.show(events.encode(event), events.EventLines())
    WorkerOutput(shown)({"pid": 7, "ip": "a", "lines": capsys.readouterr().out.splitlines()})
    assert shown.got == [event]


@given(st.integers(0, 400))
def test_half_an_event_is_a_line_like_any_other(cut: int):
    line = events.encode(PROGRESS)
    assert events.decode(line[:cut]) is None or cut >= len(line)


@pytest.mark.parametrize(
    "line", ["", "step 3", events.MARK, events.MARK + "[1]", events.MARK + '{"kind": "x"}']
)
def test_other_lines_are_no_events(line: str):
    assert events.decode(line) is None


def test_worker_lines_come_without_prefix_once_and_without_noise(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "ray._private.worker.filter_autoscaler_events",
        lambda lines: iter([line for line in lines if "event" in line]),
    )
    show = WorkerOutput(Recorder())
    show({"pid": 1, "ip": "a", "actor_name": "RayTrainWorker", "lines": ["rank 1 is slow", "twice", "twice"]})
    show({"pid": 2, "ip": "a", "actor_name": "RayTrainWorker", "lines": ["rank 1 is slow", "mine"]})
    show({"pid": 1, "ip": "a", "actor_name": "RayTrainWorker", "is_err": True, "lines": ["a traceback"]})
    show({"pid": 3, "ip": "a", "actor_name": "PlacementGroupCleaner", "lines": ["Found multiple"]})
    show({"pid": "autoscaler", "ip": "a", "lines": ["======== Autoscaler status", "event: a node came"]})
    said = capsys.readouterr()
    assert said.out.splitlines() == ["rank 1 is slow", "twice", "twice", "mine", "event: a node came"]
    assert said.err.splitlines() == ["a traceback"]


def test_what_ray_tells_its_developers_is_not_shown(capsys: pytest.CaptureFixture):
    core = "[2026-11-29 23:39:38,550 {} 2172 2173] (gcs_server) scheduler.cc:273: Failed to remove 1 bundle"
    show = WorkerOutput(Recorder(), quiet=("TrainController",))
    show({"pid": "gcs_server", "ip": "a", "lines": [core.format("E"), core.format("W"), core.format("C")]})
    raylet = {"pid": "raylet", "is_err": False}
    show(
        raylet
        | {"lines": ["WARNING: 9 PYTHON worker processes ... 9x the maximum expected startup concurrency"]}
    )
    show(raylet | {"lines": ["Task request failed. There are infinite retries remaining, so ..."]})
    dead = "The node with node id: 6e1b and address: 127.0.0.3 and node name: 127.0.0.3 has been marked dead"
    show(raylet | {"lines": [f"{dead} because the detector has missed\n too many heartbeats"]})
    show(raylet | {"lines": ["Worker died\n  from signal 9"]})
    controller = {"pid": 4, "ip": "a", "actor_name": "TrainController"}
    show(controller | {"is_err": True, "lines": ["Traceback (most recent call last):"]})
    show(controller | {"is_err": False, "lines": ["taking over"]})
    said = capsys.readouterr()
    lines = [core.format("C"), "node 127.0.0.3 was lost", "Ray: Worker died from signal 9", "taking over"]
    assert said.out.splitlines() == lines
    assert said.err == ""


@pytest.mark.parametrize("cut", range(8))
def test_a_request_that_ray_repeats_is_not_shown_with_its_traceback(cut: int, capsys: pytest.CaptureFixture):
    """Ray Train warns of it on a busy machine; lines arrive in batches, and others' between them."""
    warning = [
        "Failed to send resource request for train-ba2fb976. If this only happens transiently during network "
        "partition or CPU being overloaded, it's safe to ignore this error.",
        "Traceback (most recent call last):",
        '  File "site-packages/ray/train/coordinator_client.py", line 58, in send_resource_request',
        "    ray.get(",
        "ray.exceptions.GetTimeoutError: Get timed out: some object(s) not ready.",
    ]
    mine = ["rank 0 is process 7", *warning, "worker 1 failed", warning[1], "  deep"]
    output = WorkerOutput(Recorder())
    controller = {"ip": "10.0.0.1", "pid": 7, "is_err": True}
    output(controller | {"lines": mine[:cut]})
    output({"ip": "10.0.0.1", "pid": 8, "is_err": True, "lines": ["  from another"]})
    output(controller | {"lines": mine[cut:]})
    shown = capsys.readouterr().err.splitlines()
    assert sorted(shown) == sorted([mine[0], *mine[6:], "  from another"])


def test_messages_of_raylets_go_the_same_way_inside_the_block_alone(capsys: pytest.CaptureFixture):
    from ray._private import worker

    before, told = worker.print_to_stdstream, {"pid": "raylet", "is_err": False, "lines": ["a node\ncame"]}
    with forwarded_to(Recorder()):
        worker.print_to_stdstream(told, ignore_prefix=False)
    assert worker.print_to_stdstream is before
    assert capsys.readouterr().out == "Ray: a node came\n"


def test_all_lines_of_a_trials_worker_name_it(capsys: pytest.CaptureFixture):
    show = WorkerOutput(Recorder())
    show({"pid": 1, "ip": "a", "lines": ["early", "trial t01: rank 0 is process 1 on vm"]})
    show(
        {"pid": 1, "ip": "b", "lines": ["trial t02: rank 0 is process 1 on vm", "resuming from step 3 of 9"]}
    )
    show({"pid": 1, "ip": "a", "lines": ["resuming from step 4 of 9", "trial t01: evaluated"]})
    show({"pid": 2, "ip": "a", "lines": ["another process"]})
    show({"pid": 1, "ip": "a", "lines": ["trial t11: rank 0 is process 1 on vm", "the id is in use again"]})
    assert capsys.readouterr().out.splitlines() == [
        "early",
        "trial t01: rank 0 is process 1 on vm",
        "trial t02: rank 0 is process 1 on vm",
        "trial t02: resuming from step 3 of 9",
        "trial t01: resuming from step 4 of 9",
        "trial t01: evaluated",
        "another process",
        "trial t11: rank 0 is process 1 on vm",
        "trial t11: the id is in use again",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0:00"), (59.6, "1:00"), (3600.0, "1:00:00"), (math.nan, "-")]
)
def test_durations_read_as_on_a_clock(seconds: float, shown: str):
    assert clock(seconds) == shown


def _text(console: Console) -> str:
    out = console.file
    assert isinstance(out, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
