"""The map of the papers: no empty place, and everything that it names is there."""

import re
from pathlib import Path

import pytest

from qdet.launching.cli import parse
from tests.support.recipes import FILES, REPO

PAGE = (REPO / "docs/seeds.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not re.match(r"\| (---|item|attention) ", line)
]
ITEMS = [row for row in ROWS if len(row) == 3]
CODE = set(re.findall(r"`([^`]+)`", PAGE))
DEFINED = {
    name
    for path in (REPO / "qdet").rglob("*.py")
    for found in re.findall(
        r"^ *(?:class|def) (\w+)|^(\w+)\b[^=\n]* = |^ +(\w+): |self\.(\w+) = ", path.read_text(), re.M
    )
    for name in found
}
"""Names of classes, functions, constants, settings and attributes."""


def test_every_item_has_a_place_and_a_check():
    assert len(ITEMS) > 100
    for item, place, check in ITEMS:
        assert item
        assert len(place) > 3
        assert check in ("above", "the same", "the page's own caveats") or re.search(
            r"tests/|no check: |\.md\)", check
        ), (item, check)


@pytest.mark.parametrize("path", sorted(c for c in CODE if re.fullmatch(r"[\w/]+(\.py|/\w+)", c)))
def test_files_are_there(path: str):
    assert (REPO / path).exists()


@pytest.mark.parametrize("command", sorted(c for c in CODE if re.match(r"jobs/\w+\.py --", c)))
def test_commands_of_jobs_parse(command: str):
    file, *flags = command.split()
    parse(FILES[Path(file).stem], flags)


@pytest.mark.parametrize("name", sorted(c for c in CODE if re.fullmatch(r"[A-Za-z_0-9]{4,}", c)))
def test_names_are_in_the_source(name: str):
    assert name in DEFINED


@pytest.mark.parametrize("flag", sorted(c for c in CODE if re.fullmatch(r"--[\w.-]+( [a-z]+)?", c)))
def test_flags_are_settings(flag: str):
    assert flag.split()[0].rpartition(".")[2].replace("-", "_") in DEFINED


def test_every_table_and_variant_is_in_the_map_or_its_file_is():
    for file, recipe in FILES.items():
        named = f"`jobs/{file}.py`" in PAGE
        for name in recipe.variants:
            assert named or f"`jobs/{file}.py --variant {name}`" in PAGE, (file, name)
        for name in recipe.tables:
            assert f"`jobs/{file}.py --table {name}`" in PAGE, (file, name)


def test_operations_of_attention_are_those_of_the_formulas():
    """The formulas are the counter's: tests/backbones/test_attention_complexity.py."""
    c, n = 256, 300
    formulas = {
        "between cells": lambda t: 4 * t * c**2 + 2 * t**2 * c,
        "of queries to cells": lambda t: 2 * t * c**2 + 2 * n * c**2 + 2 * n * t * c,
        "between queries": lambda _: 4 * n * c**2 + 2 * n**2 * c,
        "deformable, between cells, one level": lambda t: 2 * t * c**2 + 3 * 8 * 4 * t * c,
    }
    shown = {row[0]: row[2:] for row in ROWS if len(row) == 5}
    assert shown == {
        name: [f"{formula(t) / 1e9:.2f} G" for t in (1050, 4200, 22_223)]
        for name, formula in formulas.items()
    }
