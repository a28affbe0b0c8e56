"""Why a run on Ray failed: its cause, found among what Ray wraps it in, and how to go on."""

from typing import TYPE_CHECKING, Any

from qdet.errors import QdetError, TrainingError
from qdet.launching.ray_backend.masked_errors import MaskedError

if TYPE_CHECKING:
    from ray.train import UserCallback


def cause_of(error: BaseException) -> QdetError:
    """Return what made training fail, in one line: the user's error itself, or a worker's first failure."""
    known = _user_error(error)
    if known is not None:
        return known
    failures = getattr(error, "worker_failures", None) or {}
    # Where a worker died, what the others say of it is only that they miss it.
    rank, first = min(failures.items(), key=lambda one: (not _died(one[1]), one[0]), default=(None, error))
    wrapped = ("_base_exc", "controller_failure", "health_check_failure")
    inner = next(filter(None, (getattr(first, name, None) for name in wrapped)), first)
    text = str(inner).strip().splitlines()
    where = "" if rank is None else f" in worker {rank}"
    kind = "" if isinstance(inner, MaskedError) else f"{type(inner).__name__}: "
    return TrainingError(f"training failed{where}: {kind}{text[0] if text else 'no message'}")


def how_to_go_on(run: str, restarts: int) -> str:
    """Return what to do after workers failed more often than `--train.max-failures` allows."""
    return (
        f"Once that is mended, --store.resume {run} goes on from its last checkpoint; "
        f"--train.max-failures, {restarts} here, is how often workers are started again by themselves"
    )


def stop_at_user_errors() -> "UserCallback":
    """Make Ray Train give up at once where a worker says that the user must mend something."""
    from ray.train import UserCallback

    class StopAtUserErrors(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                known = _user_error(error)
                if known is not None:
                    raise known

    return StopAtUserErrors()


def _died(failure: BaseException) -> bool:
    return hasattr(failure, "health_check_failure")


def _user_error(error: BaseException | None) -> QdetError | None:
    """Find a QdetError among what `error` wraps: one failure, or those of several workers."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop(0)
        # Ray's error of a task is also an instance of the class that it wraps as `cause`.
        if isinstance(one, QdetError) and not isinstance(getattr(one, "cause", None), BaseException):
            return one
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        queue += [
            getattr(one, name, None) for name in ("_base_exc", "controller_failure", "cause", "__cause__")
        ]
        queue += list((getattr(one, "worker_failures", None) or {}).values())
    return None
