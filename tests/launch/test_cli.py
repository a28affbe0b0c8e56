"""The command line of a job: what it accepts and rejects, and that `--help` is quick."""

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qdet.detectors import AdaMixerConfig
from qdet.errors import ConfigError, DataError
from qdet.job import Job, Sweep
from qdet.launching import cli
from qdet.recipes import Published, Table, Variant
from qdet.search import Choice, Each, LogUniform, Uniform

REPO = Path(__file__).resolve().parents[2]
JOB = REPO / "jobs" / "adamixer_swin.py"
FLAGS = Path(__file__).with_name("flags.txt")
HEAVY = ("ray", "deepspeed", "mlflow", "faster_coco_eval", "matplotlib", "pyarrow")


def _python(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": ""} | variables
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False, timeout=120
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list:
    """Collect commands instead of running them."""
    caught: list = []
    monkeypatch.setattr(cli, "_run", lambda command, callbacks: caught.append(command))
    return caught


@pytest.mark.serial
def test_help_takes_under_three_seconds_and_imports_nothing_heavy():
    code = f"""
import runpy, sys
sys.argv = ["job", "--help"]
try:
    runpy.run_path({str(JOB)!r}, run_name="__main__")
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    # The first run of a fresh installation may compile modules to bytecode; the second reads it, if it
    # could be written.
    (_, first), (done, second) = _time_python(code), _time_python(code)
    assert done.returncode == 0
    assert "--train.epochs INT" in done.stdout
    assert "AdaMixer with Swin-S" in done.stdout
    assert done.stderr.strip() == "[]"
    # Processor time, not wall time; beside others that is longer, too, where cores share caches. Most of it
    # is torch's, on a slow machine more than three seconds.
    assert min(first, second) < max(3, 1.6 * _time_python("import torch")[1])


def _time_python(code: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run `code`; return what it said, and the seconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = _python("-c", code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_flags_are_the_recorded_ones():
    """After adding, renaming or dropping a flag, run `python tests/launch/test_cli.py` to record it."""
    assert _flags() == FLAGS.read_text().split()


def test_mistyped_flag_is_answered_with_the_right_one():
    done = _python(str(JOB), "--train.epoch", "3")
    assert done.returncode == 2
    assert "--train.epochs INT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train.batch-size", "12"], "--train.batch-size 12 must split evenly over --train.workers 8"),
        (["--train.epochs", "0"], "--train.epochs must be at least 1, got 0"),
        (["--train.epochs", "twelve"], "twelve"),
        (["--sweep.trials", "0"], "--sweep.trials must be at least 1, got 0"),
        (["--detector.backbone.depth", "50"], "--detector.backbone.depth"),
    ],
)
def test_values_that_cannot_work_are_refused_by_flag(
    flags: list[str], said: str, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as left:
        cli.launch(_swin(), sweep=Sweep(space={"optim.lr": Uniform(0.0, 1.0)}), args=flags)
    assert left.value.code == 2
    assert said in re.sub(r"[│\s]+", " ", capsys.readouterr().err)


def test_missing_shards_are_the_last_line_and_exit_code_two(tmp_path: Path):
    done = _python(str(JOB), QDET_ROOT=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("ConfigError: --data.train: ")
    assert str(tmp_path / "data/coco/train2017") in done.stderr
    assert "Traceback" not in done.stderr


def test_sweep_of_a_job_without_one_is_refused(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        cli.launch(Job(name="plain"), args=["--sweep"])
    assert left.value.code == 2
    assert "plain has nothing to search" in capsys.readouterr().err


def test_sweep_over_a_setting_that_is_not_there_is_refused(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        cli.launch(Job(name="plain"), sweep=Sweep(space={"optim.speed": Choice((1,))}), args=["--sweep"])
    assert "optim.speed" in capsys.readouterr().err


def test_demo_changes_defaults_and_flags_go_on_top(ran: list):
    cli.launch(Job(name="a"), demo={"optim.lr": 5e-4}, args=["--demo", "--train.steps", "7"])
    (command,) = ran
    assert command.job.name == "a_demo"
    assert (command.job.optim.lr, command.job.train.steps, command.job.train.workers) == (5e-4, 7, 2)


TABLE = Table("optim.lr", {0.1: 30.0, 0.2: None})
LARGE = Variant(name="a_large", changes={"detector.queries": 300}, says="more queries")


def test_demo_of_a_variant_is_that_variant_s_and_flags_go_on_top(ran: list):
    cli.launch(
        Job(name="a"),
        variants={"large": LARGE},
        demo={"optim.lr": 5e-4},
        args=["--train.steps", "7", "--demo", "--variant", "large"],
    )
    (command,) = ran
    assert command.job.name == "a_large_demo"
    assert (command.job.optim.lr, command.job.train.steps) == (5e-4, 7)


def test_a_table_is_swept_row_by_row_each_to_its_end(ran: list):
    cli.launch(
        Job(name="a"), sweep=Sweep(space={}), tables={"rates": TABLE}, args=["--table", "rates", "--demo"]
    )
    (command,) = ran
    assert command.job.name == "a_ablation_rates_demo"
    assert command.space.space == {"optim.lr": Each((0.1, 0.2))}
    assert (command.space.runs, command.space.scheduler) == (2, "none")


@pytest.mark.parametrize("also", [[], ["--sweep"]])
def test_a_table_is_a_sweep(also: list[str], monkeypatch: pytest.MonkeyPatch):
    from qdet.launching.ray_backend.sweeping import search

    searched: list = []
    monkeypatch.setattr(search, "search", lambda job, space, **_: searched.append((job.name, space.runs)))
    cli.launch(Job(name="a"), tables={"rates": TABLE}, args=["--table", "rates", *also])
    assert searched == [("a_ablation_rates", 2)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--variant", "lage"], "--variant lage: a has no such variant. Did you mean large? It has: large."),
        (["--variant", "a_large"], "Did you mean large?"),
        (["--table", "rate"], "--table rate: a has no such table. Did you mean rates? It has: rates."),
        (["--table", "rates", "--optim.lr", "0.3"], "--table rates tries values of --optim.lr: leave"),
        (["--variant"], "Missing value for argument '--variant'"),
    ],
)
def test_choices_that_cannot_work_are_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        cli.launch(Job(name="a"), variants={"large": LARGE}, tables={"rates": TABLE}, args=flags)
    assert left.value.code == 2
    assert said in re.sub(r"[│\s]+", " ", capsys.readouterr().err)


def test_help_lists_variants_and_tables_with_the_papers_numbers(capsys: pytest.CaptureFixture):
    published = Published(ap=31.5, params=40)
    small = replace(LARGE, published=Published(ap=33.0, source="a report"))
    with pytest.raises(SystemExit):
        cli.launch(
            Job(name="a"),
            published=published,
            variants={"large": LARGE, "small": small},
            tables={"rates": TABLE},
            args=["--help"],
        )
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "Published: 31.5 AP, 40 M parameters" in said
    assert "large ResNet-50, 12 epochs, more queries small ResNet" in said
    assert "small ResNet-50, 12 epochs, more queries: 33.0 AP (a report)" in said
    assert "rates optim.lr: 0.1 30.0, 0.2" in said


def test_sweep_flags_change_the_search(ran: list):
    sweep = Sweep(space={"optim.lr": Uniform(0.0, 1.0)})
    cli.launch(
        Job(name="a"),
        sweep=sweep,
        args=["--sweep", "--sweep.trials", "3", "--sweep.space.optim.lr.high", "2"],
    )
    (command,) = ran
    assert command.sweep
    assert command.space.trials == 3
    assert command.space.space == {"optim.lr": Uniform(0.0, 2.0)}


@pytest.mark.parametrize(("error", "code"), [(ConfigError("no"), 2), (DataError("torn"), 1)])
def test_errors_of_the_user_are_one_line(error: Exception, code: int, capsys: pytest.CaptureFixture):
    def fail() -> int:
        raise error

    with pytest.raises(SystemExit) as left:
        cli.exit_on_user_error(fail)
    assert left.value.code == code
    assert capsys.readouterr().err == f"{type(error).__name__}: {error}\n"


def test_bugs_keep_their_traceback_without_secrets(capsys: pytest.CaptureFixture):
    def fail() -> int:
        raise ZeroDivisionError("at http://me:hidden@host/")

    with pytest.raises(SystemExit) as left:
        cli.exit_on_user_error(fail)
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith("ZeroDivisionError: at http://me:***@host/\n")


def test_dry_run_prints_settings_size_memory_and_steps(demo_shards: Path, capsys: pytest.CaptureFixture):
    where = ["--data.train", str(demo_shards / "train"), "--data.val", str(demo_shards / "val")]
    cli.launch(
        _swin(), args=["--demo", "--dry-run", "--train.epochs", "2", "--train.batch-size", "16", *where]
    )
    said = capsys.readouterr().out
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in said.splitlines() if "  " in line)
    assert rows["--train.batch-size"] == "16"
    assert re.match(r"[\d,]+, [\d,]+ of them trained \(6 classes\)", rows["parameters"])
    assert rows["multiply-accumulates"].endswith("G for 128 x 128 pixels")
    assert "at ZeRO-2 over 2 workers" in rows["memory per rank"]
    assert rows["steps"] == "3 per epoch, 1,200 in all"


def test_dry_run_in_json_is_one_object_on_stdout(demo_shards: Path, capsys: pytest.CaptureFixture):
    where = ["--data.train", str(demo_shards / "train"), "--data.val", str(demo_shards / "val")]
    cli.launch(_swin(), args=["--demo", "--dry-run", "--json", "--optim.lr", "1.23456789e-4", *where])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["settings"]["optim.lr"] == 1.23456789e-4
    assert found["settings"]["data.augment.sizes"] == [128]
    assert (found["steps_per_epoch"], found["steps"], found["classes"]) == (3, 1200, 6)
    assert (
        sum(v for k, v in found["memory_per_rank"].items() if k != "total")
        == found["memory_per_rank"]["total"]
    )
    assert re.search(r"^--optim.lr +0.000123456789  \(was 0.001\)$", said.err, re.MULTILINE)


def test_json_alone_is_refused(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        cli.launch(_swin(), args=["--json"])
    assert left.value.code == 2
    assert "--json goes with --dry-run, --sweep or --table" in capsys.readouterr().err


def test_the_demo_searches_near_its_own_settings(ran: list):
    wide = Sweep(space={"optim.lr": Uniform(1e-5, 1e-4), "train.batch_size": Choice((8, 16))}, trials=24)
    cli.launch(Job(name="a"), sweep=wide, args=["--demo", "--sweep", "--sweep.trials", "3"])
    cli.launch(Job(name="a"), sweep=wide, args=["--sweep"])
    small, whole = (command.space for command in ran)
    assert (small.space["optim.lr"], small.trials) == (LogUniform(3e-4, 2e-3), 3)
    assert set(small.space["detector.queries"].options) == {20, 30, 60}
    assert set(small.space) == {"optim.lr", "detector.queries"}
    assert whole.space == wide.space
    small.check(ran[0].job)


def _swin() -> Job:
    from qdet.backbones import SwinConfig

    return Job(name="swin", detector=AdaMixerConfig(backbone=SwinConfig()))


def _flags() -> list[str]:
    return sorted(set(re.findall(r"(?<![\w`])--[a-z][\w.-]*", _python(str(JOB), "--help").stdout)))


if __name__ == "__main__":
    FLAGS.write_text("\n".join(_flags()) + "\n")
