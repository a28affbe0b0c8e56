"""The cases in `folders` hold, and the runner notices what does not."""

import json
from pathlib import Path

import pytest

from tests.cases.__main__ import main
from tests.cases.runner import Expectation, expect, find_cases, judge, run_case

CASES = find_cases(Path(__file__).parent / "folders")


def test_there_are_cases():
    assert len(CASES) >= 8


LONG = "class_names_like_markup", "shards_of_all_splits"
"""Cases of two commands each, which landings run."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.slow if case.name in LONG else (),
        )
        for case in CASES
    ],
)
def test_a_case_holds(case: Path):
    verdict = run_case(case)
    assert verdict.held, f"{verdict.row()}\n{verdict.output}"


def write_case(folder: Path, **files: str) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("what is right")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"command": "exit 3"}, "exit code 3 instead of 0: no output"),
        ({"command": "true", "code": [1, 2]}, "exit code 0 instead of 1 or 2"),
        ({"command": "echo red", "says": ["blue"]}, "does not say 'blue'"),
        ({"command": "echo red >&2", "never": ["red"]}, "says 'red'"),
        ({"command": "python -c 1/0", "code": 1}, "says 'Traceback (most recent call last)'"),
        ({"command": "sleep 60 & wait", "timeout": 0.3}, "not done after 0 s"),
        ({"comand": "true"}, "is not as an expectation must be"),
        ({"command": "cat inputs.txt"}, "exit code 1"),
    ],
)
def test_what_does_not_hold_is_noticed(tmp_path: Path, expected: dict, problem: str):
    verdict = run_case(write_case(tmp_path / "case", expect_json=json.dumps(expected)))
    assert not verdict.held
    assert any(problem in found for found in verdict.problems)


def test_inputs_are_made_and_the_case_is_left_as_it_is(tmp_path: Path):
    case = write_case(
        tmp_path / "a case",
        make_py="open('input.txt', 'w').write('made')",
        expect_json=json.dumps(
            {"command": "cat input.txt; mkdir OUT; echo more > input.txt", "says": ["made"]}
        ),
    )
    case.chmod(0o555)
    assert run_case(case).held
    assert sorted(file.name for file in case.iterdir()) == ["README.md", "expect.json", "make.py"]


def test_expectations_from_elsewhere_go_first(tmp_path: Path):
    case = write_case(tmp_path / "cases-one", expect_json=json.dumps({"command": "false"}))
    beside = tmp_path / "expect"
    beside.mkdir()
    (beside / "cases-one.sh").write_text("exit 0")
    assert run_case(case, beside).held
    assert expect(case, tmp_path).command == "false"


def test_a_program_of_a_case_must_end_well(tmp_path: Path):
    assert run_case(write_case(tmp_path / "good", try_py="import qdet.errors")).held
    assert not run_case(write_case(tmp_path / "bad", try_sh="exit 1")).held
    assert run_case(write_case(tmp_path / "none")).problems == (
        "neither expect.json nor try.py nor try.sh says what to run",
    )


def test_the_table_counts_what_held(tmp_path: Path, capsys: pytest.CaptureFixture):
    write_case(tmp_path / "good", expect_json=json.dumps({"command": "true"}))
    write_case(tmp_path / "poor", expect_json=json.dumps({"command": "echo why; false"}))
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 held" in said
    assert "BROKE" in said
    assert "why" in said
    assert main([str(tmp_path), "--only", "good"]) == 0
    assert main([str(tmp_path), "--only", "absent"]) == 2


def test_all_that_is_wrong_is_listed():
    expected = Expectation(command="", says=("a",), never=("b",))
    assert len(judge(expected, 1, "b")) == 3
