"""Commands in the blocks of README and docs, and how each of them is run by tests."""

import re
import shlex
from pathlib import Path

from tests.support.recipes import REPO

PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")])
OTHERS = set("cluster/local.sh curl docker eval hf mlflow pip sbatch sed tensorboard trtexec".split())  # noqa: SIM905
"""Other people's commands, which are not parsed here."""
OURS = {"make", "python", "qdet", "ray", "torchrun"}


def commands_of(page: Path) -> list[str]:
    """Commands in a page's blocks, without comments; a block with none is an example of output."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        if language not in ("", "bash"):
            continue
        first = re.sub(r"^([A-Z_]+=\S* )*", "", block.lstrip()).split(maxsplit=1)
        if first and first[0].removeprefix(".venv/bin/") in OURS | OTHERS:
            lines = block.replace("\\\n", " ").splitlines()
            found += [shlex.join(words) for line in lines if (words := words_of(line))]
    return found


def words_of(line: str) -> list[str]:
    """Words of a command line, without variables set before it, comments and what is behind a pipe."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    for mark in ("|", "&&", ">"):
        words = words[: words.index(mark)] if mark in words else words
    return words


LINES = sorted({line for page in PAGES for line in commands_of(page)})
"""Every command once."""
