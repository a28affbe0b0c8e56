"""What ARCHITECTURE.md says of files: they are there, and the newcomer's walk stays short."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TEXT = (REPO / "ARCHITECTURE.md").read_text()
AT_MOST = 25
"""Files between a job file and the loss of one batch."""


def test_the_walk_to_a_loss_is_short_and_its_files_exist():
    walk = TEXT.split("## From a job file to a loss")[1].split("\n## ")[0]
    files = re.findall(r"\]\(([^)]+)\)", walk)
    assert files[0] == "jobs/adamixer_swin.py"
    assert [file for file in files if not (REPO / file).is_file()] == []
    assert len(set(files)) == len(files) <= AT_MOST


def test_every_module_that_it_names_exists():
    tables = TEXT.split("## Where state lives")[1]
    names = set(re.findall(r"`((?:training|data|launching|tracking|health|nonfinite)/[\w/.]*)`", tables))
    assert names
    bases = (REPO / "qdet", REPO / "qdet" / "training")
    assert [name for name in sorted(names) if not any((base / name).exists() for base in bases)] == []
    dotted = set(re.findall(r"`(qdet\.[a-z_.]+)`", TEXT))
    places = [REPO / name.replace(".", "/") for name in dotted]
    assert [str(p) for p in places if not p.is_dir() and not p.with_suffix(".py").is_file()] == []
