"""How often workers may fail: failures without a new checkpoint between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.checkpoint import RunFolder, open_folder
from qdet.errors import DataError, TrainingError
from qdet.launching.ray_backend.failure_budget import FailureBudget, newest_step
from qdet.launching.ray_backend.failures import check_failures
from qdet.training.reporting import Run
from tests.support.small_checkpoints import write


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    most=st.integers(0, 3),
    failures=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=15),
)
def test_a_run_ends_by_failures_without_progress_alone(most, failures):
    """Against a literal reading: the tail of the steps at which it failed that are all the same."""
    clock, step, seen = Clock(), 0, []
    budget = FailureBudget(most, lambda: step, clock)
    for progress, reports in failures:
        step += progress
        clock.now += 60.0
        seen.append(step)
        in_a_row = 1
        while in_a_row < len(seen) and seen[-1 - in_a_row] == step:
            in_a_row += 1
        for _ in range(reports):  # of the same failure, a second apart
            assert budget.spend() == (in_a_row <= most)
            clock.now += 1.0


def fail(budget, error) -> None:
    budget.clock.now += 60.0
    check_failures(budget, {1: error})


def test_the_fourth_crash_in_a_month_does_not_end_a_run_that_progresses():
    step = 0
    budget = FailureBudget(3, lambda: step, Clock())
    for step in range(100, 1100, 100):  # noqa: B007
        fail(budget, RuntimeError("the node is gone"))
    for _ in range(2):
        fail(budget, RuntimeError("again"))
    with pytest.raises(TrainingError, match=r"training failed in worker 1: RuntimeError: again"):
        fail(budget, RuntimeError("again"))


def test_a_user_error_ends_a_run_at_once_and_a_machine_taken_away_never():
    budget = FailureBudget(0, lambda: 0, Clock())
    taken = RuntimeError("spot")
    taken.preempted = True
    for _ in range(5):
        fail(budget, taken)
    with pytest.raises(DataError, match="no such image"):
        fail(budget, DataError("no such image"))
    with pytest.raises(TrainingError):
        fail(budget, RuntimeError("x"))


def test_the_newest_checkpoint_is_asked_for(tmp_path):
    run = Run("night", str(tmp_path))
    assert newest_step(run) == 0
    folder = RunFolder(open_folder(tmp_path / "night"))
    write(folder.at(7), step=7)
    folder.at(9).put("rank_00000.aaaa.json", b"{}")  # not complete
    assert newest_step(run) == 7
    assert newest_step(Run("night", "nothing://x")) == 0
