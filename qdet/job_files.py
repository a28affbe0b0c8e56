"""Where job files are: those that come with qdet, as `qdet:NAME`, and those of a user, as paths."""

from pathlib import Path

from qdet.errors import ConfigError, did_you_mean
from qdet.recipes import answer, commands_in

PREFIX = "qdet:"
_PACKAGE = Path(__file__).parent
INSTALLED, CHECKOUT = _PACKAGE / "jobs", _PACKAGE.parent / "jobs"
JOBS = INSTALLED if INSTALLED.is_dir() else CHECKOUT
"""Folder of the job files that come with qdet: inside an installed package, beside it in a checkout."""


def find_job(given: str | Path) -> Path:
    """Return the job file that a user names by a path, or by `qdet:NAME` among those that come with qdet.

    Raises:
        ConfigError: There is no such file; the message names the closest one.
    """
    text = str(given)
    if text.startswith(PREFIX):
        return _find_shipped(text.removeprefix(PREFIX).removesuffix(".py"))
    path = Path(text)
    if path.is_file():
        return path
    shipped = JOBS / f"{path.stem}.py"
    reply = answer(path) or f"{path}: there is no such file."
    raise ConfigError(f"{reply} {PREFIX}{path.stem} comes with qdet" if shipped.is_file() else reply)


def name_job(path: Path) -> str:
    """Return what to type for a job file that comes with qdet: a path in a checkout, else `qdet:NAME`."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else f"{PREFIX}{path.stem}"


def shipped() -> list[Path]:
    """Return the job files that come with qdet, by name.

    Raises:
        ConfigError: There are none: the installation is incomplete.
    """
    found = sorted(JOBS.glob("*.py"))
    if not found:
        raise ConfigError(f"there are no job files in {JOBS}: install qdet again")
    return found


def _find_shipped(name: str) -> Path:
    names = [path.stem for path in shipped()]
    if name not in names:
        if (command := commands_in(JOBS).get(name)) is not None:
            raise ConfigError(f"{name_job(JOBS / name)}.py is now: {command}")
        hint = did_you_mean(name, names)
        raise ConfigError(f"{PREFIX}{name}: no such job comes with qdet.{hint} There are: {', '.join(names)}")
    return JOBS / f"{name}.py"
