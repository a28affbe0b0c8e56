"""Every policy for bad input that docs/data.md promises names tests that are there."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_every_case_names_tests_that_exist():
    table = (REPO / "docs" / "data.md").read_text().split("| case | result | test |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(rows) == 21
    for row in rows:
        cell = row.strip("| ").rpartition("|")[2]
        named = re.findall(r"`(\w+\.py)?(?:::(\w+))?`(\*?)", cell)
        assert named, row
        text = ""
        for file, test, star in named:
            if file:
                text = (REPO / "tests" / ("data_prep" if star else "data") / file).read_text()
            assert not test or f"def {test}(" in text, f"{file}::{test}"
