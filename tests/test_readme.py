"""What the README says must run does: its commands parse, its files exist, its job is the one in jobs/."""

import re
import shlex
from pathlib import Path

import pytest

from data_prep.coco_to_shards import Conversion
from data_prep.command_line import run_command
from qdet.launching.cli import parse
from qdet.recipes import read

README = Path("README.md").read_text()
BLOCKS = re.findall(r"```\w*\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
JOB_LINES = [line for line in LINES if re.search(r"jobs/\w+\.py", line) and not line.startswith("from")]


def test_the_job_shown_is_the_job_in_the_file():
    code = Path("jobs/adamixer_swin.py").read_text().split('"""', 2)[2].strip()
    assert any(block.strip() == code for block in BLOCKS)


@pytest.mark.parametrize("line", JOB_LINES)
def test_flags_of_every_job_command_parse(line):
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if word.startswith("jobs/"))
    parse(read(Path(words[at])), words[at + 1 :])


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_has_every_target(line):
    assert re.search(rf"^{line.split()[1]}:", Path("Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in LINES if "data_prep.coco_to_shards" in line])
def test_conversion_commands_parse(line):
    seen = []
    run_command(Conversion, seen.append, about="", args=shlex.split(line)[3:])
    assert seen[0].split in line


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if "://" not in t and not Path(t).exists()]
    assert not missing
