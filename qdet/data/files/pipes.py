"""Commands whose output is a shard: those alone that the job allows by name, and never through a shell.

    --data.train 'pipe:curl -sf https://host/t-{000..146}.tar' --data.allow-pipes 'curl -sf'

A command is allowed if its first words are all the words of something that is. Without a shell, `;`, `|`, `$`
and `>` are letters like any other.
"""

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from qdet.errors import ConfigError, DataError

_LAST_WORDS = 5.0
"""Seconds that a command has to end in, once its output is not what it should be."""


def allowed_words(name: str, allowed: Sequence[str]) -> list[str]:
    """Words of the command in a `pipe:` address; ConfigError unless `allowed` has what it begins with."""
    command = name.partition(":")[2]
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{name}: its quotes do not pair up") from error
    if not words:
        raise ConfigError(f"{name} holds no command")
    for entry in allowed:
        first = shlex.split(entry)
        if first and words[: len(first)] == first:
            return words
    raise ConfigError(
        f"{name}: commands are not run unless the job allows them by name; if you trust this one, give "
        f"--data.allow-pipes {shlex.quote(words[0])}, or more of its words"
    )


@contextmanager
def output_of(name: str, allowed: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run the command of a `pipe:` address, for its output to be read to the end inside a `with`.

    Raises:
        ConfigError: It is not allowed.
        DataError: It cannot be run, or ends with another exit status than 0. An error inside the `with` is
            put down to the command where that has failed.
    """
    pipe = _start(name, allowed_words(name, allowed))
    try:
        yield pipe
        pipe.close()
    except (OSError, DataError) as error:
        try:
            status = pipe.proc.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            status = 0
        if status:
            raise DataError(
                f"{name}: the command ended with exit status {status}; what it wrote is no whole shard"
            ) from error
        raise
    finally:
        pipe.ignore_errors = True
        pipe.proc.kill()  # its output is no longer read: it might never end
        pipe.close()


def _start(name: str, words: list[str]) -> Any:
    from webdataset.gopen import Pipe

    try:
        return Pipe(words, mode="rb", stdin=subprocess.DEVNULL)
    except OSError as error:
        raise DataError(
            f"{name}: {words[0]} cannot be run: {error.strerror or error}; it must be on every machine"
        ) from error
