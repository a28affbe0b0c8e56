"""docs/own_data.md says what its commands print."""

import re
import shlex
from pathlib import Path

import pytest

from data_prep import inspect, to_shards
from data_prep.command_line import run_command
from data_prep.doctor import labels

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own_data.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for kind, block in BLOCKS
    for line in block.splitlines()
    if not kind and line.startswith(("qdet ", "python -m"))
]


@pytest.fixture
def cells(bccd_root, tmp_path, monkeypatch):
    """The folder that the page speaks of, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").symlink_to(bccd_root)
    return tmp_path


def run(command: str) -> None:
    words = shlex.split(command)
    if words[:2] == ["qdet", "prepare"]:
        to_shards.main(words[2:])
    else:
        inspect.main(words[3:])


def test_the_commands_print_what_the_page_says(cells, capsys):
    shown = [block for kind, block in BLOCKS if not kind and block.startswith(("cells:", "data/cells"))]
    assert len(shown) == 2
    for command, expected in zip(COMMANDS, shown, strict=False):
        run(command)
        said = " ".join(re.sub(r"took [\d.]+ s", "took 2.5 s", capsys.readouterr().out).split())
        assert " ".join(expected.partition("...")[0].split()) in said
    run(COMMANDS[2])
    assert (cells / "inspect.png").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    words, seen = shlex.split(command), []
    settings = to_shards.ToShards if words[0] == "qdet" else inspect.Inspection
    skipped = 2 if words[0] == "qdet" else 3
    assert words[:skipped] in (["qdet", "prepare"], ["python", "-m", "data_prep.inspect"])
    run_command(settings, seen.append, about="", args=words[skipped:])
    assert len(seen) == 1


def test_the_python_runs(cells, capsys):
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    compiled = compile(code, "own_data.md", "exec")
    exec(compiled, {})
    said = capsys.readouterr().out
    assert said.startswith("cells: voc, 3 classes")
    assert "1 pair of nearly identical images" in said


def test_every_finding_is_documented():
    source = "".join(file.read_text() for file in Path(labels.__file__).parent.glob("*.py"))
    checks = set(re.findall(r'Finding\(\s*"(\w+)"', source)) | set(labels._TEXTS)
    checks |= {f"{kind}{where}" for kind in ("copies", "look_alikes") for where in ("", "_across_splits")}
    table = "".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    assert {check for check in checks if f"`{check}`" not in table} == set()
