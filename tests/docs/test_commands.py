"""What README and docs say can be typed: every command parses, every job, module and make target is there."""

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from data_prep import command_line
from qdet import __main__ as commands
from qdet.launching.cli import parse
from qdet.recipes import read
from tests.support.page_commands import OTHERS, OURS, PAGES, commands_of
from tests.support.recipes import REPO

COMMANDS = [pytest.param(line, id=f"{page.stem}: {line}") for page in PAGES for line in commands_of(page)]
README = (REPO / "README.md").read_text()


def test_the_commands_are_found():
    assert len(COMMANDS) > 60


def test_the_job_shown_is_the_job_in_the_file():
    code = (REPO / "jobs/adamixer_swin.py").read_text().split('"""', 2)[2].strip()
    assert code in README


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPO)
    words = shlex.split(line)
    name = Path(words[0]).name if words[0].startswith(".venv/bin/") else words[0]
    assert name in OURS | OTHERS, "an unknown command"
    if name == "make":
        assert all(re.search(rf"^{word}:", Path("Makefile").read_text(), re.MULTILINE) for word in words[1:2])
    elif name == "qdet" or words[1:3] == ["-m", "qdet"]:
        check_qdet(words[1:] if name == "qdet" else words[3:], monkeypatch)
    elif words[1:2] == ["-m"]:
        check_module(words[2], words[3:], monkeypatch)
    elif name in OURS:
        check_job(words)


def check_qdet(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for command in commands.COMMANDS.values():
        monkeypatch.setattr(command, "run", lambda self, job_flags: ran.append(list(job_flags)) or 0)
    commands.main(words)
    assert ran
    jobs = [word for word in words if re.fullmatch(r"jobs/\w+\.py", word)]
    if jobs:
        parse(read(Path(jobs[0])), ran[0])


def check_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not module.startswith("data_prep."):
        assert importlib.util.find_spec(module)
        return
    parsed = []
    run_command = command_line.run_command

    def parse_only(settings, run, *, about, args=None):
        run_command(settings, parsed.append, about=about, args=words)

    monkeypatch.setattr(command_line, "run_command", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *words])
    runpy.run_module(module, run_name="__main__")
    assert parsed


def check_job(words: list[str]) -> None:
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    assert Path(words[at]).is_file()
    if words[at].startswith("jobs/") and "--help" not in words:
        parse(read(Path(words[at])), words[at + 1 :])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [t for t in targets if not re.match(r"\w+:", t) and not (page.parent / t).exists()]
    assert not missing


QUOTED = re.findall(r"^### `(.*)`$", (REPO / "docs" / "errors.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", QUOTED)
def test_messages_that_are_explained_are_there(message: str):
    """Messages stand on several lines of source: quotes and breaks between their parts do not count."""
    sources = [file for name in ("qdet", "data_prep") for file in (REPO / name).rglob("*.py")]
    joined = (re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in sources)
    assert any(message in text for text in joined)
