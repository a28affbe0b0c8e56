"""`qdet reproduce`: the first steps again, bit for bit; other data, plans and addresses are refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qdet import __main__ as commands
from qdet.config import flatten
from qdet.data.plan.epoch import PLAN_VERSION
from qdet.errors import ConfigError, StorageError, TrainingError
from qdet.launching.reproducing import plan, ranks, run
from qdet.launching.reproducing.differences import WITHIN, Here, list_differences, tolerance
from qdet.launching.reproducing.plan import Request, plan_reproduction
from qdet.launching.reproducing.run import compare, reproduce
from qdet.launching.reproducing.worker import train_again
from qdet.storage import Folder
from qdet.training.beginning.record import FILE, read_beginning
from tests.support.ranks import tiny_job, train_all

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(demo_shards, tmp_path_factory) -> Path:
    """A store with a run of four steps on one worker."""
    place = tmp_path_factory.mktemp("store")
    job = tiny_job(demo_shards, **{"train.steps": 4, "train.accelerator": "cpu"})
    train_all(1, {"run": job}, place)
    return place


@pytest.fixture
def copy(store, tmp_path) -> Path:
    """A copy of that run's folder, to be changed."""
    return shutil.copytree(store / "run", tmp_path / "run")


@pytest.fixture
def _in_this_process(monkeypatch):
    """Train here instead of in a process of its own, to save the start of one."""

    def train(job, steps, scratch):
        file = scratch / "plan.json"
        file.write_text(json.dumps({"job": flatten(job), "steps": steps, "run": ranks.RUN}, default=str))
        train_again(file)

    monkeypatch.setattr(run, "train_on_ranks", train)


def _change(folder: Path, **changes) -> None:
    file = folder / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.usefixtures("_in_this_process")
def test_a_run_is_reproduced_bit_for_bit_and_a_changed_loss_is_found(copy, capsys):
    assert reproduce(str(copy), Request(steps=3)) == "3 of 3 losses are equal bit for bit"
    said = capsys.readouterr().out
    assert "training steps 1 to 3 of" in said
    assert "differs:" not in said
    assert len(re.findall(r"^step \d/4", said, re.MULTILINE)) == 3
    recorded = read_beginning(Folder.open(copy))
    assert recorded is not None
    texts = [loss.hex() for loss in recorded.losses]
    texts[1] = (recorded.losses[1] * (1 + 2**-50)).hex()
    _change(copy, losses=texts)
    with pytest.raises(TrainingError, match=r"step 2: the loss is \S+, it was \S+ \(relative difference"):
        reproduce(str(copy), Request())


@pytest.mark.usefixtures("_in_this_process")
def test_what_differs_is_said_before_the_first_step_and_with_a_difference(copy, capsys):
    known = json.loads((copy / FILE).read_text())
    versions = known["conditions"]["versions"] | {"torch": "2.0.0"}
    conditions = known["conditions"] | {"commit": "f" * 40, "versions": versions}
    losses = [known["losses"][0], "0x1p0", *known["losses"][2:]]
    _change(copy, conditions=conditions, losses=losses, hosts=["elsewhere"])
    with pytest.raises(TrainingError, match=r"step 2: .*what differs here: .*torch: \S+ here, 2\.0\.0 in"):
        reproduce(str(copy), Request(steps=2))
    said = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(said) if line.startswith("step 1/"))
    differs = [line for line in said[:first] if line.startswith("differs: ")]
    assert [line.split(": ")[1] for line in differs] == ["commit of qdet", "torch", "machine"]


def test_other_data_is_refused_by_its_digest(copy, demo_shards, tmp_path):
    other = str(demo_shards / "val")
    with pytest.raises(ConfigError, match=r"is not what the run was trained with: its digest is \w{12},"):
        plan_reproduction(Folder.open(copy), Request(train=other))
    with pytest.raises(ConfigError, match=r"of the run's --data\.val was"):
        plan_reproduction(Folder.open(copy), Request(val=str(demo_shards / "train")))
    with pytest.raises(ConfigError, match=r"gone.*--train SHARDS says where the same shards are"):
        plan_reproduction(Folder.open(copy), Request(train=str(tmp_path / "gone")))
    moved = shutil.copytree(demo_shards / "train", tmp_path / "moved")
    assert plan_reproduction(Folder.open(copy), Request(train=str(moved))).job.data.train == str(moved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan_version": PLAN_VERSION + 1}, r"by version \d+ of its plan, the run by version"),
        ({"losses": []}, "holds no loss"),
        (
            {"job": {"name": "x", "data": "DataConfig", "detector": "NoDETRConfig"}},
            "'NoDETRConfig' is none of",
        ),
        ({"job": {"name": "x", "train": "TrainConfig"}}, "settings of no job"),  # no data
        ({"job": {"name": "x", "new": 1}}, "saved by another version"),
        ({"job": {"name": "x", "data": "DataConfig", "data.train": "pipe:rm -r x"}}, "commands of a record"),
        ({"job": {"name": "x", "data": "DataConfig", "data.val": "s3://a?key=***"}}, "without its secrets"),
    ],
)
def test_a_record_that_cannot_be_trained_is_refused(changes, said, copy):
    _change(copy, **changes)
    with pytest.raises(ConfigError, match=said) as error:
        plan_reproduction(Folder.open(copy), Request())
    assert "\n" not in str(error.value)


def test_a_run_without_a_record_or_with_fewer_steps_is_refused(copy):
    folder = Folder.open(copy)
    for steps in (0, 5):
        with pytest.raises(ConfigError, match=rf"--steps {steps}: losses of steps 1 to 4 are recorded"):
            plan_reproduction(folder, Request(steps=steps))
    with pytest.raises(ConfigError, match="--workers must be at least 1"):
        plan_reproduction(folder, Request(workers=0))
    (copy / FILE).write_text("{")
    with pytest.raises(StorageError, match="no record of first losses"):
        plan_reproduction(folder, Request())
    (copy / FILE).unlink()
    with pytest.raises(ConfigError, match=rf"has no {FILE}"):
        plan_reproduction(folder, Request())


def test_a_record_behind_a_url_opens_no_url_that_the_user_does_not_trust(copy, demo_shards):
    job = json.loads((copy / FILE).read_text())["job"] | {"data.train": "http://127.0.0.1:9/secret"}
    job |= {"data.allow_hosts": ["elsewhere.example"]}
    _change(copy, job=job)
    folder = Folder.open("memory://reproduced/run")
    folder.put(FILE, (copy / FILE).read_bytes())
    with pytest.raises(ConfigError, match=r"names http://127\.0\.0\.1:9/secret \(data\.train\).*--trust"):
        plan_reproduction(folder, Request())
    train = str(demo_shards / "train")
    planned = plan_reproduction(folder, Request(train=train)).job.data
    assert (planned.train, planned.allow_hosts) == (train, ())
    trusted = plan_reproduction(folder, Request(train=train, trust=True)).job.data
    assert trusted.allow_hosts == ("elsewhere.example",)


def test_no_setting_that_is_changed_for_a_reproduction_is_one_of_learning():
    from qdet.changes import FIXED, LEARNING

    fixed = (*FIXED, *LEARNING)
    assert not [path for path in plan.QUIET if any(f"{path}.".startswith(f"{one}.") for one in fixed)]


def test_bits_are_compared_where_they_are_promised_and_nowhere_else(copy):
    recorded = read_beginning(Folder.open(copy))
    assert recorded is not None
    here = Here(conditions=recorded.conditions, host=recorded.hosts[0], ranks=1)
    canonical = replace(recorded, job=recorded.job | {"train.canonical": 2})
    on_gpu = replace(recorded.conditions, device="cuda")
    assert list_differences(recorded, here) == []
    assert tolerance(recorded, here) == tolerance(canonical, replace(here, ranks=3)) == 0
    for other in (replace(here, ranks=2), replace(here, conditions=on_gpu)):
        assert tolerance(recorded, other) == WITHIN
    assert tolerance(replace(recorded, conditions=on_gpu), replace(here, conditions=on_gpu)) == WITHIN


def test_losses_are_compared_step_by_step():
    one, near = [2.0, 3.0], [2.0, 3.0 * (1 + 5e-7)]
    assert compare(one, one, within=0.0, different=()) == "2 of 2 losses are equal bit for bit"
    assert compare(one, near, within=WITHIN, different=()) == "2 of 2 losses are equal to 1e-06"
    with pytest.raises(TrainingError, match=r"step 2: .*\(relative difference 5e-07\)$"):
        compare(one, near, within=0.0, different=())
    with pytest.raises(TrainingError, match="ended after 1 of 2 steps"):
        compare(one, [2.0], within=0.0, different=())


@pytest.mark.slow
def test_a_rank_that_fails_is_quoted_in_one_line(tmp_path, demo_shards, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    job = tiny_job(demo_shards, **{"train.steps": 2, "data.train": str(tmp_path / "gone")})
    with pytest.raises(TrainingError, match=r"worker 0 of the reproduction failed: \w+Error: .*gone"):
        ranks.train_on_ranks(job, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_reproduce_their_run_and_one_worker_nearly(demo_shards, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    job = tiny_job(demo_shards, **{"train.workers": 2, "train.steps": 8, "train.accelerator": "cpu"})
    train_all(2, {"run": job}, tmp_path)
    for flags, said in (([], "bit for bit"), (["--workers", "1", "--steps", "4"], "")):
        commands.main(["reproduce", str(tmp_path / "run"), *flags])
        assert re.search(rf"^\d of \d losses are equal.*{said}", capfd.readouterr().out, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "qdet", "reproduce", "run", "--train", str(demo_shards / "val")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
