"""How a command ends: a user error is one line and an exit code, any other keeps its traceback."""

import sys
import traceback
from collections.abc import Callable

from qdet.errors import ConfigError, QdetError
from qdet.masking import mask


def exit_on_user_error(run: Callable[[], int | None]) -> None:
    """Call `run`, print a user error as one line without a traceback, and exit with the matching code.

    Returns only where `run` returns 0 or None.

    Raises:
        SystemExit: 2 for a ConfigError, 1 for any other error, 130 for Ctrl-C, else what `run` returned.
    """
    try:
        code = run()
    except QdetError as error:
        sys.stdout.flush()
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        sys.stdout.flush()
        print(mask(traceback.format_exc()), file=sys.stderr, end="", flush=True)
        raise SystemExit(1) from None
    if code:
        raise SystemExit(code)
