"""All `qdet` commands alike: names, help, overwriting, scores, exit codes, completion, and lists of runs."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet import __main__ as commands
from qdet.errors import ConfigError
from qdet.inference import SCORE
from qdet.inference.detections import Detections
from qdet.inference.model import Model
from qdet.launching.commands.models.predict import PredictCommand
from qdet.launching.commands.models.serve import ServeCommand
from qdet.launching.commands.models.visualize import VisualizeCommand
from qdet.launching.commands.overwriting import check_free, replaced
from qdet.launching.commands.runs import listing
from qdet.launching.exit_status import Exit, exit_on_user_error
from qdet.launching.runs import record
from qdet.serving.settings import ServiceSettings
from qdet.storage import Folder
from qdet.training.health import watchdog
from tests.support.small_checkpoints import write

REPO = Path(__file__).resolve().parents[2]
OUTPUTS = ("to", "json", "html", "export")
"""Fields of commands that name a file or folder to write, where they are paths."""


def _help(capsys: pytest.CaptureFixture, *args: str) -> str:
    with pytest.raises(SystemExit) as left:
        commands.parse([*args, "--help"])
    assert left.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_is_readable(name: str, capsys: pytest.CaptureFixture):
    said = _help(capsys, name)
    assert "{None}" not in said
    assert not re.search(r"\bSTR\b", said)
    assert "(default: )" not in said


def test_a_slip_is_answered_with_the_nearest_command(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        commands.main(["chekpoint", "x"])
    assert left.value.code == 2
    assert "there is no command chekpoint. Did you mean checkpoint?" in capsys.readouterr().err


def test_version_is_the_packages(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        commands.main(["--version"])
    assert left.value.code == 0
    assert re.fullmatch(r"qdet \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


FLAGS = (["--to", "d"], ["--score", "0.5"], ["--show-classes"], ["--json", "r.json"])


@settings(max_examples=25, deadline=None)
@given(st.permutations([["M"], *FLAGS, ["a.jpg"]]))
def test_flags_of_predict_stand_anywhere(parts: list[list[str]]):
    first, last = parts.index(["M"]), parts.index(["a.jpg"])
    if first > last:  # the model comes first
        parts[first], parts[last] = parts[last], parts[first]
    found = commands.parse(["predict", *(word for part in parts for word in part)])
    assert isinstance(found, PredictCommand)
    assert (found.model, found.sources, found.to, found.score) == ("M", ("a.jpg",), Path("d"), 0.5)
    assert (found.json, found.show_classes) == (Path("r.json"), True)


def test_every_command_that_writes_what_the_user_names_has_force():
    writing = {
        name: [f for f in OUTPUTS if Path in _options(get_type_hints(command).get(f))]
        for name, command in commands.COMMANDS.items()
    }
    found = {name for name, fields in writing.items() if fields}
    assert found == {"predict", "evaluate", "export", "visualize", "convert", "checkpoint", "zoo"}
    for name in found:
        fields = {field.name: field for field in dataclasses.fields(commands.COMMANDS[name])}
        assert fields["force"].default is False


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "M", "a.jpg", "--to", "taken"],
        ["predict", "M", "a.jpg", "--json", "taken/file"],
        ["evaluate", "M", "--html", "taken/file"],
        ["export", "M", "--to", "taken"],
        ["export", "M", "--to", "taken/m.onnx"],
        ["visualize", "M", "a.jpg", "--to", "taken"],
        ["convert", "M", "--to", "taken"],
        ["checkpoint", "M", "--export", "taken/m.safetensors"],
    ],
)
def test_nothing_is_overwritten_without_force(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each refuses before it looks at the model, which is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    for name in ("file", "m.onnx", "m.safetensors"):
        (tmp_path / "taken" / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"--\w+ taken\S* is already there; .*--force to overwrite"):
        commands.parse(arguments).run([])
    assert {file.read_text() for file in (tmp_path / "taken").iterdir()} == {"mine"}


def test_an_empty_folder_is_free_and_a_folder_of_ones_own_is_never_removed(tmp_path: Path):
    check_free(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("mine")
    with (
        pytest.raises(ConfigError, match=r"has no config.json: --force does not remove that"),
        replaced(own, sign="config.json", force=True),
    ):
        raise AssertionError
    assert (own / "thesis.tex").read_text() == "mine"


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("old")

    def fail() -> None:
        with replaced(folder, sign="config.json", force=True) as new:
            new.mkdir()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (folder / "config.json").read_text() == "old"
    with replaced(folder, sign="config.json", force=True) as new:
        new.mkdir()
        (new / "config.json").write_text("new")
    assert (folder / "config.json").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_one_score_everywhere():
    of = {field.name: field.default for field in dataclasses.fields(VisualizeCommand)}["score"]
    served = {field.name: field.default for field in dataclasses.fields(ServeCommand)}["score"]
    assert of == served == ServiceSettings.__dataclass_fields__["score"].default == SCORE
    for function in (Model.predict, Detections.draw):
        assert inspect.signature(function).parameters["score"].default == SCORE
    about = inspect.getsource(PredictCommand)
    assert f"by default {SCORE} for what is printed and drawn" in about


def test_exit_codes_are_the_documented_ones():
    rows = re.findall(r"^\| (\d+) \| (.*?) \|$", (REPO / "docs/exit_codes.md").read_text(), re.MULTILINE)
    assert {int(code): meaning.replace("`", "") for code, meaning in rows} == {
        int(code): code.meaning.replace("`", "") for code in Exit
    }
    assert watchdog.EXIT_CODE == Exit.HANGING


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ConfigError("x"), 2),
        (record.QdetError("x"), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_command_ends_with_the_code_of_its_error(raised: BaseException, code: int):
    def run() -> int:
        raise raised

    with pytest.raises(SystemExit) as left:
        exit_on_user_error(run)
    assert left.value.code == code


def test_a_reader_that_closes_the_pipe_is_no_error():
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    writing = "from qdet.__main__ import main; main(['--help'])"
    command = f'{sys.executable} -c "{writing}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, Exit.PIPE_CLOSED)


def test_the_tab_key_completes_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        commands.main(["completion", "bash"])
    script = tmp_path / "qdet.bash"
    script.write_text(capsys.readouterr().out)
    asking = f"""
source {script}
ask() {{ COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
  $(complete -p qdet | sed 's/.*-F \\([^ ]*\\).*/\\1/') qdet "${{@: -1}}" "${{@: -2:1}}"
  echo "${{COMPREPLY[*]}}"; }}
ask qdet che; ask qdet predict --sco; ask qdet evaluate M --precision b
"""
    done = subprocess.run(["bash", "-c", asking], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["checkpoint", "--score", "bf16"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two runs: one of a former version, one with two checkpoints, of which the older is the better."""
    old = {"name": "swin-20261128-043715-a2c56bb2", "mlflow_run_id": None, "tracking_uri": "sqlite:///x"}
    (tmp_path / "swin-20261128-043715-a2c56bb2").mkdir()
    (tmp_path / "swin-20261128-043715-a2c56bb2" / "run.json").write_text(json.dumps(old))
    new = record.RunRecord(
        name="swin-calm-owl",
        mlflow_run_id="f00",
        tracking_uri="sqlite:///x",
        job="swin",
        started="2126-11-28T10:00:00+00:00",
        hash="0a0b0c0d",
        status="finished",
    )
    record.write(str(tmp_path), new)
    for step, ap in ((2, 0.123456789), (4, 0.1)):
        folder = Folder.open(tmp_path / "swin-calm-owl" / f"step_{step:06d}")
        write(folder, step=step, metrics={"val/AP": ap})
    (tmp_path / "cache").mkdir()
    return tmp_path


def test_runs_are_listed_the_latest_last_and_unrounded(store: Path, capsys: pytest.CaptureFixture):
    commands.main(["runs", "--store", str(store), "--json"])
    old, new = json.loads(capsys.readouterr().out)["runs"]
    assert (old["name"], old["job"], old["step"]) == ("swin-20261128-043715-a2c56bb2", None, None)
    assert (new["name"], new["status"], new["step"]) == ("swin-calm-owl", "finished", 4)
    assert (new["best_step"], new["best_ap"], new["hash"]) == (2, 0.123456789, "0a0b0c0d")
    files = [file for file in (store / "swin-calm-owl").glob("step_*/*") if not _is_note(file)]
    assert new["bytes"] == sum(file.stat().st_size for file in files)


def test_the_table_of_runs_has_a_line_for_each(store: Path, capsys: pytest.CaptureFixture):
    commands.main(["runs", "--store", str(store)])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "job", "status", "step", "val/AP", "started", "size"]
    assert rows[1].split()[:5] == ["swin-calm-owl", "swin", "finished", "4", "0.1235"]
    commands.main(["runs", "--store", str(store / "cache")])
    assert "holds no runs yet" in capsys.readouterr().out


def test_a_run_is_shown_by_a_part_of_its_name(store: Path, capsys: pytest.CaptureFixture):
    commands.main(["show", str(store / "calm"), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(
        listing.as_json(listing.find(str(store / "swin-calm-owl")))
    )
    commands.main(["show", str(store / "calm")])
    said = capsys.readouterr().out
    assert re.search(r"^step_000002 +0.1235 .* best\s*$", said, re.MULTILINE)
    with pytest.raises(SystemExit) as left:
        commands.main(["show", str(store / "swin")])
    assert left.value.code == 2
    assert "names 2 runs" in capsys.readouterr().err


def test_status_is_kept_beside_the_rest(store: Path):
    before = record.read(str(store), "swin-calm-owl")
    record.set_status(str(store), "swin-calm-owl", "killed")
    assert record.read(str(store), "swin-calm-owl") == dataclasses.replace(before, status="killed")
    record.set_status(str(store), "nowhere", "killed")  # not worth an error


def _is_note(file: Path) -> bool:
    """True for what no manifest lists: itself, and what a rank reports of its file."""
    return file.name == "manifest.json" or (file.stem.startswith("rank_") and file.suffix == ".json")


def _options(hint: object) -> tuple[object, ...]:
    """Return a type, or those of a union."""
    return getattr(hint, "__args__", (hint,))
