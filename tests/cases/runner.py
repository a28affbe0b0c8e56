"""Run cases and judge what happened: exit code, what is and is not said, and that no traceback is shown."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
TRACEBACK = "Traceback (most recent call last)"
INPUTS_BY = "make.py"
"""A program in a case's folder that writes its inputs into the current one."""


class BadCase(Exception):
    """A case that cannot be run as it is written."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What is run, and what must come of it; exit code 0 of a `try.py` or `try.sh`."""

    command: str
    """For bash; in it, OUT is a folder that is not there yet, and $CASE a copy of the case's."""
    codes: tuple[int, ...] = (0,)
    says: tuple[str, ...] = ()
    """What the output must have."""
    never: tuple[str, ...] = ()
    """What it must not have; a traceback never."""
    timeout: float = 120.0
    """Seconds."""
    at_root: bool = False
    """Whether it runs in the project's folder rather than in a copy of the case."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a case."""

    name: str
    problems: tuple[str, ...]
    code: int | None = None
    """Exit code; None where it ran out of time or could not run."""
    seconds: float = 0.0
    output: str = field(default="", repr=False)

    @property
    def held(self) -> bool:
        """Whether all was as expected."""
        return not self.problems

    def row(self) -> str:
        """Return a line of the table."""
        code = "-" if self.code is None else str(self.code)
        return (
            f"{'held' if self.held else 'BROKE':<6} {code:>4} {self.seconds:>6.1f} s  {self.name}"
            + "".join(f"\n{'':22}{problem}" for problem in self.problems)
        )


def find_cases(folder: Path) -> list[Path]:
    """Return the folders below `folder` that have a README.md, by name."""
    return sorted(file.parent for file in folder.glob("*/README.md"))


def expect(case: Path, beside: Path | None = None) -> Expectation:
    """Return what is expected of a case.

    Args:
        case: Its folder.
        beside: A folder whose `NAME.json`, `NAME.py` or `NAME.sh` are taken before what the case itself has.

    Raises:
        BadCase: Nothing says what to run, or it is not written as it must be.
    """
    places = [(case, "expect", "try")]
    if beside is not None:
        places.insert(0, (beside, case.name, case.name))
    for folder, written, program in places:
        if (file := folder / f"{written}.json").is_file():
            return _parse(file)
        for ending, shell in (("py", "python"), ("sh", "bash")):
            if (file := folder / f"{program}.{ending}").is_file():
                return Expectation(command=f'{shell} "{file.absolute()}"', at_root=True)
    raise BadCase("neither expect.json nor try.py nor try.sh says what to run")


def run_case(case: Path, beside: Path | None = None) -> Verdict:
    """Run a case on a copy of its folder and judge it."""
    try:
        expected = expect(case, beside)
    except BadCase as error:
        return Verdict(name=case.name, problems=(str(error),))
    with tempfile.TemporaryDirectory(prefix="qdet-case-") as made:
        copy = Path(made) / case.name
        shutil.copytree(case, copy, copy_function=shutil.copyfile)
        copy.chmod(0o755)  # the case itself may be read-only
        if (case / INPUTS_BY).is_file():
            code, output = _run(f"python {INPUTS_BY}", copy, 60.0)
            if code != 0:
                return Verdict(name=case.name, problems=(f"{INPUTS_BY}: {output[-200:]}",), code=code)
        started = time.monotonic()
        command = re.sub(r"\bOUT\b", str(Path(made) / "out"), expected.command)
        folder = REPO if expected.at_root else copy
        code, output = _run(command, folder, expected.timeout, CASE=str(copy), TMPDIR=made)
        seconds = time.monotonic() - started
    problems = tuple(judge(expected, code, output))
    return Verdict(name=case.name, problems=problems, code=code, seconds=seconds, output=output)


def judge(expected: Expectation, code: int | None, output: str) -> list[str]:
    """Return what is not as expected."""
    if code is None:
        return [f"not done after {expected.timeout:.0f} s"]
    wrong = []
    if code not in expected.codes:
        last = (output.strip().splitlines() or ["no output"])[-1]
        wrong.append(f"exit code {code} instead of {' or '.join(map(str, expected.codes))}: {last[:200]}")
    wrong += [f"does not say {text!r}" for text in expected.says if text not in output]
    wrong += [f"says {text!r}" for text in (*expected.never, TRACEBACK) if text in output]
    return wrong


def _parse(file: Path) -> Expectation:
    try:
        given: dict[str, Any] = json.loads(file.read_text())
        code = given.pop("code", 0)
        codes = tuple(code) if isinstance(code, list) else (code,)
        lists = {name: tuple(given.pop(name, ())) for name in ("says", "never")}
        return Expectation(codes=codes, **lists, **given)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadCase(f"{file} is not as an expectation must be: {error}") from error


def _run(command: str, folder: Path, timeout: float, **variables: str) -> tuple[int | None, str]:
    """Run a command in bash; return exit code, None if it ran out of time, and all output."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(REPO),
        "COLUMNS": "200",
        **variables,
    }
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        return None, process.communicate()[0]
