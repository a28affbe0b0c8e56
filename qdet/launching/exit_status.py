"""How a command ends: a user error is one line and an exit code, any other keeps its traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum

from qdet.errors import ConfigError, QdetError
from qdet.masking import mask
from qdet.storage.surroundings import settle


class Exit(IntEnum):
    """Exit codes of every command and job, with what each means; docs/exit_codes.md shows them."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "Exit":
        """Make a code that knows what it means."""
        made = int.__new__(cls, code)
        made._value_, made.meaning = code, meaning
        return made

    DONE = 0, "Done."
    FAILED = 1, "It failed, or some of what was asked for could not be done; the last line says why."
    REFUSED = 2, "A flag, setting or file cannot work as it is; nothing was started."
    HANGING = 75, "A worker hung or was found wrong, or a server was away; started again, it resumes."
    INTERRUPTED = 130, "Ctrl-C. A training has written a checkpoint, unless Ctrl-C came twice."
    PIPE_CLOSED = 141, "Who read the output has closed the pipe, as `head` does."
    STOPPED = 143, "SIGTERM. A training has written a checkpoint."


def exit_on_user_error(run: Callable[[], int | None]) -> None:
    """Call `run`, print a user error as one line without a traceback, and exit with the matching code.

    Returns only where `run` returns 0 or None.

    Raises:
        SystemExit: With a code of `Exit`, or what `run` returned.
    """
    try:
        settle()
        code = run()
    except QdetError as error:
        sys.stdout.flush()
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(_code_of(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(Exit.PIPE_CLOSED) from None
    except Exception:
        sys.stdout.flush()
        print(mask(traceback.format_exc()), file=sys.stderr, end="", flush=True)
        raise SystemExit(Exit.FAILED) from None
    if code:
        raise SystemExit(code)


def _code_of(error: QdetError) -> Exit:
    if error.transient:
        return Exit.HANGING
    return Exit.REFUSED if isinstance(error, ConfigError) else Exit.FAILED
