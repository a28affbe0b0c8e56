"""Injected faults: what they do to files, how a difference is reported, and whole runs with each kind."""

import random
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from qdet.errors import ConfigError, TrainingError
from qdet.launching.chaos import faults, flips
from qdet.launching.chaos.run import Chaos, Result, break_runs, print_result
from qdet.launching.chaos.trial import Event, Trial
from qdet.launching.chaos.verdict import check_flips


def test_damaging_a_file_always_changes_it(tmp_path: Path):
    file = tmp_path / "state.json"
    for seed in range(50):
        file.write_bytes(bytes(range(100)))
        faults._corrupt(file, random.Random(seed))
        assert file.read_bytes() != bytes(range(100))


def test_one_worker_answers_a_request_for_a_flipped_bit(tmp_path: Path):
    trial = Trial("run", tmp_path, workers=2)
    (tmp_path / "run.log").write_text("what workers print\n" * 3)
    assert flips._claim(trial.flips) is None
    assert flips.count_flips(trial.flips) == 0
    flips.request_flip(trial.flips, "weights")
    assert [flips._claim(trial.flips) for _ in range(2)] == ["weights", None]
    assert flips.count_flips(trial.flips) == 1
    assert check_flips(trial) == ["1 bits were flipped, and 0 found"]
    assert faults.Victim(psutil.Process(), trial.run_folder, lambda: None).flips == trial.flips


def test_unknown_faults_are_refused_by_name(tmp_path: Path):
    assert faults.select_faults(["term"]) == ["term"]
    assert faults.select_faults([]) == list(faults.FAULTS)
    with pytest.raises(ConfigError, match=r"--faults flood: there are worker, workers"):
        faults.select_faults(["flood"])


def test_a_difference_is_reported_and_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    trials = [Trial(name, tmp_path, workers=2) for name in ("whole", "broken-1", "broken-2")]
    trials[0].startup = 4.0
    trials[1].events.append(Event("worker", "killed worker 7", step=3, at=1.0, recovery=6.0))
    trials[2].events.append(Event("term", "sent SIGTERM", step=3, at=1.0))
    result = Result(trials[0], trials[1:])
    print_result(result, Console())
    said = capsys.readouterr().out
    assert "2 of 2 runs, 2 faults: bitwise equal, nothing lost" in said
    assert "1.50 of the time of a start" in said
    result.wrong["broken-2"] = ["3 tensors differ, such as weights/x"]
    with pytest.raises(TrainingError, match="1 of 2 runs are wrong; broken-2: 3 tensors differ"):
        print_result(result, Console())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "fault",
    [
        "worker",
        "driver",
        pytest.param("damage", marks=pytest.mark.ci_slow),
        "freeze",
        "second",
        "pause",
        "flip",
    ],
)
def test_a_run_with_injected_faults_ends_like_an_undisturbed_one(fault: str, tmp_path: Path):
    result = break_runs(Chaos(minutes=0.01, faults=(fault,), seed=3), tmp_path / "chaos", Console())
    assert len(result.broken) == 1
    assert result.faults >= 1
    assert result.wrong == {}
