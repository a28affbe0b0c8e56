"""What a process may lack: a home folder, a name of its user, a terminal that shows every character."""

import os
import pwd
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from qdet.errors import ConfigError

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Variables in which `getpass` looks for a name."""


def settle() -> None:
    """Make this process one that libraries can work in; call it where a command begins."""
    print_anything(sys.stdout, sys.stderr)
    name_user()


def print_anything(*streams: object) -> None:
    """Let `streams` escape what their encoding lacks, instead of raising, as with PYTHONIOENCODING=ascii."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and getattr(stream, "errors", None) == "strict":
            reconfigure(errors="backslashreplace")


def name_user(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give a user without a name or a home folder both, in `environment`.

    Containers run under any number. Libraries ask the password file for what the environment does not say,
    and raise where it has no such user.
    """
    number = os.getuid()
    known = _find_user(number)
    if known is None and not any(environment.get(name) for name in _NAMES):
        environment["LOGNAME"] = environment["USER"] = f"user{number}"
    if not environment.get("HOME") and known is None:
        environment["HOME"] = str(_make_home(number))


def expand(path: str) -> Path:
    """Return a path in which `~` is the home folder, also of a user who has none."""
    name_user()
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~NAME of a user who is not there
        raise ConfigError(f"{path}: {error} Give the folder itself") from error


def _find_user(number: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(number)
    except KeyError:
        return None


def _make_home(number: int) -> Path:
    """Return a folder of the user's own among the temporary ones, the same for all processes.

    Raises:
        ConfigError: The folder is another user's.
    """
    home = Path(tempfile.gettempdir()) / f"qdet-home-{number}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != number:
        raise ConfigError(f"this user has no home folder, and {home} is another user's; set HOME")
    return home
