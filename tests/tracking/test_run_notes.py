"""What MLflow shows of a run beside its numbers: description, tags, a trial's name, the machine's name."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.config import override
from qdet.job import Sweep
from qdet.launching import paths
from qdet.launching.runs import note, report
from qdet.launching.runs.claim import hold_run
from qdet.launching.runs.place import Place
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.session import TITLE_TAG, Session, open_session
from qdet.launching.runs.sweeps import plots
from qdet.launching.runs.sweeps.curves import Curve
from qdet.launching.runs.sweeps.record import SweepFile, SweepStore
from qdet.launching.runs.sweeps.results import log_results
from qdet.launching.runs.sweeps.session import open_sweep
from qdet.launching.runs.sweeps.table import TITLE, TrialRow, trial_title
from qdet.launching.runs.typed import command_line
from qdet.search import LogUniform
from qdet.tracking import NullTracker
from qdet.training.reporting import Run
from tests.support import small_models
from tests.support.tiny_job import job as tiny

METRICS = {"val/AP": 0.51234, "val/AP50": 0.8, "val/AR100": 0.6, "train/loss": 3.0}


def test_a_description_says_what_it_is_how_it_was_started_and_what_came_out():
    start = note.describe_start("Train it.\n\n    On shapes.\n", "python jobs/a.py --name 'a b'")
    assert start == "Train it.\n\n    On shapes.\n\n```\npython jobs/a.py --name 'a b'\n```"
    said = note.describe_results(METRICS, step=1200, folder="outputs/a-1", best=900)
    rows = [line.replace(note.GAP, "") for line in said.splitlines() if line.startswith("|")]
    assert rows[0] == "|AP|AP50|AP75|APs|APm|APl|"
    assert rows[2] == "|0.5123|0.8000|-|-|-|-|"  # what no image has is a dash, not missing
    assert rows[3] == "|AR1|AR10|AR100|ARs|ARm|ARl|"
    assert "After 1200 steps; best checkpoint: `step_000900`" in said
    assert "qdet predict outputs/a-1 photo.jpg" in said
    assert "(the last)" in note.describe_results(METRICS, step=900, folder="x", best=900)
    assert "best" not in note.describe_results({}, step=900, folder="x", best=None)


@given(st.lists(st.sampled_from(["--sweep.trials", "12", "a b", "it's", "--", "x" * 50, "***"]), max_size=30))
def test_a_long_command_is_broken_before_its_flags_and_stays_what_it_is(words: list[str]):
    command = shlex.join(["python", "jobs/a.py", *words])
    said = note.show_command(command)
    assert said.startswith("```\npython jobs/a.py")
    body = said.removeprefix("```\n").removesuffix("\n```")
    assert body.replace(" \\\n    ", " ") == command
    assert all(line.startswith("    --") for line in body.splitlines()[1:])


def test_a_command_as_long_as_a_line_of_the_page_is_broken():
    said = note.show_command("python jobs/adamixer_swin.py" + " --sweep.trials 12" * 20).splitlines()
    assert len(said) == 7
    assert all(90 < len(line) <= 120 for line in said[1:-2])


def test_secrets_of_a_command_are_masked():
    said = command_line(["a.py", "--data.train", "s3://me:pw123456@host/x"])
    assert said == "python a.py --data.train s3://me:***@host/x"


def test_the_best_checkpoint_is_found_in_the_store(tmp_path):
    small_models.write_checkpoint(tmp_path / "r", step=4, seed=1, metrics={"val/AP": 0.5})
    small_models.write_checkpoint(tmp_path / "r", step=8, seed=1, metrics={"val/AP": 0.4})

    def best(store: str, run: str) -> int | None:
        found = Session(Run(run, store), NullTracker()).find_best()
        return None if found is None else found.step

    assert best(str(tmp_path), "r") == 4
    assert best(str(tmp_path), "not-there") is None
    assert best("nothing://x", "r") is None


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({"optim.lr": 4.3123e-5, "detector.queries": 20}, "t03 lr=4.3e-05 q=20"),
        ({"detector.width": 1, "detector.backbone.width": 2}, "t03 detector.width=1 backbone.width=2"),
        ({"detector.norm": None, "data.crop": True}, "t03 norm=None crop=True"),
        ({}, "t03"),
    ],
)
def test_a_trial_is_named_by_what_it_tries(settings, title):
    assert trial_title("t03", settings) == title


paths_of_settings = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(st.dictionaries(paths_of_settings, st.integers(0, 9), max_size=6))
def test_short_names_of_settings_stay_unique(settings):
    title = trial_title("t03", settings)
    assert len(title) <= TITLE
    if not title.endswith("…"):
        names = [part.split("=")[0] for part in title.split()[1:]]
        assert len(set(names)) == len(settings)
        assert all(path.endswith(name) for path, name in zip(settings, names, strict=True))


def test_long_titles_are_cut():
    title = trial_title("t03", {f"detector.setting_number_{i}": "x" * 20 for i in range(9)})
    assert len(title) <= TITLE
    assert title.endswith("…")


MEETING = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(0, 0, None)),
        (
            {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"} | MEETING,
            Place(1, 1, None),
        ),
        (
            {"RANK": "4", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
            | MEETING,
            Place(4, 0, "node1"),
        ),
    ],
)
def test_a_machine_is_named_where_there_are_several(environment, place):
    assert Place.of_torchrun(environment) == place


def test_the_command_of_the_page(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    assert report.ui_command(f"sqlite:///{tmp_path}/mlflow.db") == "qdet ui"
    assert report.ui_command("sqlite:////m.db") == "qdet ui --tracking-uri sqlite:////m.db"
    assert "pw123456" not in report.ui_command("https://me:pw123456@host")


def test_mlflow_has_the_description_and_the_tags(tmp_path, database, demo_shards: Path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    monkeypatch.setenv(paths.TRACKING, f"sqlite:///{database}")
    where = {"data.train": str(demo_shards / "train"), "data.val": str(demo_shards / "val")}
    prepared = prepare(override(tiny, where))
    with open_session(prepared, title="lr=0.1 queries=20") as session:
        small_models.write_checkpoint(
            tmp_path / "outputs" / session.run.name, step=4, seed=1, metrics={"val/AP": 0.5}
        )
        session.describe_results(4, METRICS)
    run = MlflowClient(tracking_uri=f"sqlite:///{database}").get_run(session.run.mlflow_run_id)
    assert run.info.run_name == run.data.tags[TITLE_TAG] == "lr=0.1 queries=20"
    assert run.data.tags["qdet.run"] == session.run.name
    assert run.data.tags["qdet.job"] == "tiny"
    assert len(run.data.tags["qdet.settings"]) == 8
    assert f"|0.5123{note.GAP}|0.8000{note.GAP}|" in run.data.tags[note.TAG]
    assert f"qdet predict outputs/{session.run.name} photo.jpg" in run.data.tags[note.TAG]
    assert "qdet.claim" not in run.data.tags


def test_a_sweep_shows_its_trials(tmp_path, database, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    monkeypatch.setenv(paths.TRACKING, f"sqlite:///{database}")
    sweep = Sweep(space={"optim.lr": LogUniform(1e-5, 1e-4)})
    rows = [
        TrialRow(trial="t1", settings={"optim.lr": 1.23456e-5}, metric=0.1, step=4, state="stopped early"),
        TrialRow(trial="t2", settings={"optim.lr": 2e-5}, metric=0.3, step=8, state="finished"),
    ]
    curves = [
        Curve(trial=row.trial, settings=row.settings, state=row.state, values={1: row.metric or 0.0})
        for row in rows
    ]
    file = SweepFile.of("tiny_sweep-1", tiny, sweep, digest=None)
    outputs = str(tmp_path / "outputs")
    with (
        hold_run(outputs, file.name) as held,
        open_sweep(tiny, sweep, file, SweepStore.at(outputs, file.name), held) as session,
    ):
        log_results(session, rows, curves)
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    run = client.get_run(session.mlflow_run_id)
    said = run.data.tags[note.TAG]
    assert said.startswith("Best: t2, val/AP 0.3000. Train it:")
    table = said.replace(note.GAP, "")
    assert "|trial|val/AP|state|optim.lr|" in table
    assert table.index("|t2|0.3000|finished|2e-05|") < table.index("|t1|0.1000|stopped early|1.23e-05|")
    for name in plots.NAMES:
        assert f"(get-artifact?path=plots/{name}&run_uuid={run.info.run_id})" in said
        drawn = Path(client.download_artifacts(run.info.run_id, f"plots/{name}", str(tmp_path)))
        assert drawn.read_bytes().startswith(b"\x89PNG")
    assert "--optim.lr 2e-05" in said
    logged = Path(client.download_artifacts(run.info.run_id, "trials.json", str(tmp_path)))
    assert json.loads(logged.read_text())["data"][1][3] == 1.23456e-5  # not shortened there
    assert json.loads(logged.read_text())["columns"] == ["trial", "val/AP", "state", "optim/lr"]
