"""How a command ends: an error of the user's is one line and an exit code, ours keep their traceback."""

import sys
import traceback
from collections.abc import Callable

from qdet.errors import ConfigError, QdetError
from qdet.masking import mask


def guarded(run: Callable[[], int | None]) -> None:
    """Call `run` and leave by its answer; an error of the user's is one line, without a traceback."""
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
