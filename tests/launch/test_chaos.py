"""Injected faults: what they do to files, how a difference is reported, and whole runs with each kind."""

import random
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qdet.checkpoint import Checkpoint, RunFolder, manifest, open_folder
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import CheckpointError, ConfigError, TrainingError
from qdet.launching.chaos import copies, faults, flips, lies
from qdet.launching.chaos.job import job as chaos_job
from qdet.launching.chaos.requests import Requests
from qdet.launching.chaos.run import Chaos, Result, break_runs, prepare, print_result
from qdet.launching.chaos.trial import Event, PlannedFault, Trial
from qdet.launching.chaos.verdict import check_flips
from qdet.launching.chaos.victim import kill_process
from tests.support.ranks import assert_same
from tests.support.small_checkpoints import write


def test_damaging_a_file_always_changes_it(tmp_path: Path):
    file = tmp_path / "state.json"
    for seed in range(50):
        file.write_bytes(bytes(range(100)))
        faults._corrupt(file, random.Random(seed))
        assert file.read_bytes() != bytes(range(100))


def test_one_worker_answers_a_request_for_a_flipped_bit(tmp_path: Path):
    trial = Trial("run", tmp_path, workers=2)
    (tmp_path / "run.log").write_text("what workers print\n" * 3)
    requests = trial.flips
    assert requests.claim(flips.KINDS) is None
    assert requests.answered() == 0
    requests.put("weights")
    assert requests.claim(lies.KINDS) is None
    assert [requests.claim(flips.KINDS) for _ in range(2)] == ["weights", None]
    assert requests.answered() == 1
    assert check_flips(trial) == ["1 bits were flipped, and 0 found"]
    victim = faults.Victim(psutil.Process(), trial.run_folder, lambda: None)
    assert (victim.flips, victim.lies, victim.folder) == (requests, trial.lies, tmp_path)


def test_a_chaos_kills_no_worker_of_another(tmp_path: Path):
    """Nor what only has a word of its own in common, nor the driver that it has paused."""
    job, folders = "qdet.launching.chaos.job", [tmp_path / "one", tmp_path / "other"]
    words = [(job, "run"), (job, "undisturbed"), ("of.somebody", "run")]
    with ExitStack() as stack:
        started = {}
        for folder in folders:
            folder.mkdir()
            for said in words:
                command = [sys.executable, "-c", "import time; time.sleep(100)", *said]
                process = stack.enter_context(psutil.Popen(command, cwd=folder))
                stack.callback(kill_process, process)
                started[folder.name, *said] = process
        spared = stack.enter_context(psutil.Popen(started["one", job, "run"].cmdline(), cwd=folders[0]))
        stack.callback(kill_process, spared)
        victim = faults.Victim(psutil.Process(), folders[0] / "store" / "run", lambda: None)
        victim.kill_leftovers(spared=[spared])
        assert started["one", job, "run"].wait(30) == -signal.SIGKILL
        others = [process for key, process in started.items() if key != ("one", job, "run")]
        assert psutil.wait_procs([*others, spared], timeout=0.5)[0] == []


STARTED_IN_TURN = """
import pathlib, sys, time
from qdet.storage import Folder
from qdet.storage.lease.owner import Owner
from qdet.storage.lease.terms import Terms

here = pathlib.Path(sys.argv[1])
starts = here / "starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
number, terms = len(starts.read_text()), Terms(Folder.open(here / "store" / "run"))
if number == 1:
    print("step 1/1", flush=True)
    while terms.view().number == 0:
        time.sleep(0.01)
elif number == 2:
    terms.claim(1, Owner.here(), 10)
    time.sleep(100)
"""


def test_a_run_whose_second_driver_is_killed_after_its_end_is_launched_again(tmp_path: Path, monkeypatch):
    """MLflow has it as running, as that driver had opened it again."""
    command = [sys.executable, "-c", STARTED_IN_TURN, str(tmp_path)]
    monkeypatch.setattr(Trial, "_command", lambda self, restarts: command)
    trial = Trial("run", tmp_path, workers=2)
    trial.run_folder.mkdir(parents=True)
    trial.run([PlannedFault(step=1, delay=0.0, fault="second")], random.Random(0))
    assert (tmp_path / "starts").read_text() == "xxx"
    assert [event.what.partition(", ")[2] for event in trial.events] == [
        "and killed it once it had opened the finished run again"
    ]
    assert trial.problems == []


def test_of_many_threads_each_request_is_answered_once(tmp_path: Path):
    requests = Requests(tmp_path / "run.lies.json")
    requests.put(lies.CUT, 20)

    def ask(_: int) -> int:
        claimed = 0
        while requests.answered() < 20:  # a request is not there while another thread takes it
            claimed += requests.claim((lies.CUT,)) is not None
        return claimed

    with ThreadPoolExecutor(8) as pool:
        answers = sum(pool.map(ask, range(8)))
    assert answers == requests.answered() == 20
    assert [file.name for file in tmp_path.iterdir()] == ["run.lies.log"]


@given(st.binary(min_size=1, max_size=200), st.sampled_from([lies.WRONG, lies.CUT]), st.integers(0, 999))
def test_a_lie_is_never_the_truth(content: bytes, kind: str, seed: int):
    answer = lies.falsify(content, kind, random.Random(seed))
    if kind == lies.CUT:
        assert len(answer) < len(content)
        assert content.startswith(answer)
    else:
        assert len(answer) == len(content)
        differing = [a ^ b for a, b in zip(answer, content, strict=True) if a != b]
        assert len(differing) == 1
        assert differing[0].bit_count() == 1


@pytest.fixture
def lying_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, Requests]:
    """A run of three checkpoints in a store that lies, and what asks for lies."""
    requests = Requests(tmp_path / "lies.json")
    monkeypatch.setenv(lies.LIES, str(requests.file))
    monkeypatch.setattr(manifest, "REREAD", 0.0)
    lies.install()
    run = RunFolder(open_folder(f"lying://{tmp_path}/store/run"))
    for step in (1, 2, 3):
        write(run.at(step), step=step)
    return run, requests


def test_a_store_that_is_not_asked_to_lie_is_one_like_any_other(lying_store, tmp_path: Path):
    run, requests = lying_store
    found = Checkpoint(run.at(3))
    honest = Checkpoint(open_folder(tmp_path / "store" / "run" / "step_000003"))
    assert_same(found, honest)
    assert run.folder.local is None
    assert run.folder.create("lease", b"1")
    assert not run.folder.create("lease", b"2")
    assert requests.answered() == 0


@pytest.mark.parametrize("kind", lies.KINDS)
@pytest.mark.parametrize("times", range(1, 9))
def test_no_lie_about_a_checkpoint_is_believed(kind: str, times: int, lying_store, tmp_path: Path):
    """Whatever the store answers, what a run resumes from is a checkpoint as it was written, or an error."""
    run, requests = lying_store
    requests.put(kind, times)
    said: list[str] = []
    try:
        found = run.newest_good(said.append)
        resumed = None if found is None else Checkpoint(found, verified=True)
    except CheckpointError as error:
        said.append(str(error))
        resumed = None
    assert requests.answered() >= 1
    if resumed is not None:
        place = tmp_path / "store" / "run" / resumed.folder.name
        assert_same(resumed, Checkpoint(open_folder(place)))
        assert resumed.state.step == int(resumed.folder.name.removeprefix("step_"))
    if kind != lies.STALE and times > 2:
        assert said
    assert {folder.name for folder in (tmp_path / "store" / "run").glob("step_*")} == {
        f"step_{step:06d}" for step in (1, 2, 3)
    }


def test_every_second_worker_reads_the_copy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert copies.read_own_copy(chaos_job).data.train == "data/train"
    monkeypatch.setenv(copies.COPIES, "1")
    assert copies.read_own_copy(chaos_job).data.train == "copy/train"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert copies.read_own_copy(chaos_job).data.train == "data/train"


def test_the_copy_differs_within_the_block_and_is_refused_by_what_is_compared(tmp_path: Path):
    folder = tmp_path / "chaos"
    prepare(folder)
    same = [ShardSet.open(folder / name / "train").digest for name in (copies.DATA, copies.COPY)]
    assert same[0] == same[1]
    with copies.other_copy(folder):
        assert ShardSet.open(folder / copies.COPY / "train").digest != same[0]
    assert ShardSet.open(folder / copies.COPY / "train").digest == same[0]


@pytest.mark.parametrize(
    ("lines", "alive", "found"),
    [
        (f"ConfigError: {copies.REFUSALS[0]}: digest a on b\n", True, []),
        (f"ConfigError: --store.resume: {copies.REFUSALS[1]} a, it was b\n", True, []),
        ("step 4/60  loss 1\n" + copies.REFUSALS[0], True, ["trained"]),
        ("nothing\n", False, ["were not refused within 0.3 s"]),
    ],
)
def test_data_that_differ_must_be_refused_without_a_step(
    lines: str, alive: bool, found: list[str], tmp_path: Path
):
    log = tmp_path / "run.log"
    log.write_text("step 3/60  loss 1\n" + lines)
    problems = copies.watch_refusal(log, len("step 3/60  loss 1\n"), lambda: alive, 0.3)
    assert len(problems) == len(found)
    assert all(part in problem for part, problem in zip(found, problems, strict=True))


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
        "lie",
        "mismatch",
    ],
)
def test_a_run_with_injected_faults_ends_like_an_undisturbed_one(fault: str, tmp_path: Path):
    result = break_runs(Chaos(minutes=0.01, faults=(fault,), seed=3), tmp_path / "chaos", Console())
    assert len(result.broken) == 1
    assert result.faults >= 1
    assert result.wrong == {}
