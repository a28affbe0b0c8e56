"""The house: no folder of the packages is crowded, and each says in its first line what it holds."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = sorted(
    file.parent for name in ("qdet", "data_prep") for file in (REPO / name).rglob("__init__.py")
)
MOST_FILES = 16


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_a_package_is_small_and_says_what_it_holds(package: Path):
    files = [file for file in package.glob("*.py") if file.name != "__init__.py"]
    assert len(files) <= MOST_FILES
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert docstring
    first, *rest = docstring.splitlines()
    assert first.endswith(".")
    assert not rest or not rest[0]


def test_every_folder_of_python_files_is_a_package():
    folders = {file.parent for name in ("qdet", "data_prep") for file in (REPO / name).rglob("*.py")}
    assert folders == set(PACKAGES)
