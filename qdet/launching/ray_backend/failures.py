"""Why a run on Ray failed: the cause, unwrapped from Ray's exceptions, and how to resume."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qdet.errors import QdetError, TrainingError
from qdet.launching.ray_backend.failure_budget import FailureBudget
from qdet.launching.ray_backend.masked_errors import MaskedError

if TYPE_CHECKING:
    from ray.train import UserCallback


def find_cause(error: BaseException) -> QdetError:
    """Return why training failed: the user error itself, or a TrainingError with a worker's first line."""
    user_error = _find_user_error(error)
    if user_error is not None:
        return user_error
    failures = getattr(error, "worker_failures", None) or {}
    # If a worker died, the errors of the others are only lost connections to it.
    rank, first = min(failures.items(), key=lambda one: (not _died(one[1]), one[0]), default=(None, error))
    wrapped = ("_base_exc", "controller_failure", "health_check_failure")
    inner = next(filter(None, (getattr(first, name, None) for name in wrapped)), first)
    text = str(inner).strip().splitlines()
    where = "" if rank is None else f" in worker {rank}"
    kind = "" if isinstance(inner, MaskedError) else f"{type(inner).__name__}: "
    return TrainingError(f"training failed{where}: {kind}{text[0] if text else 'no message'}")


def advise_resume(run: str, restarts: int) -> str:
    """Return what to do after more worker failures than `--train.max-failures` allows."""
    return (
        f"Once that is fixed, --store.resume {run} resumes from its last checkpoint; "
        f"--train.max-failures, {restarts} here, is how often workers are restarted automatically without a "
        "new checkpoint in between"
    )


def stop_on_failures(budget: FailureBudget) -> "UserCallback":
    """Return a callback that makes Ray Train fail: at once on a user error, which no restart would fix.

    Args:
        budget: Of other failures. Ray Train's own count is of the whole run, whatever progress it makes.
    """
    from ray.train import UserCallback

    class StopAtFailures(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            check_failures(budget, worker_exceptions)

    return StopAtFailures()


def check_failures(budget: FailureBudget, errors: Mapping[int, Exception]) -> None:
    """Count what workers failed of, by rank, unless a machine of theirs was taken away.

    Raises:
        QdetError: It is a user error.
        TrainingError: The budget is spent; the message is the cause.
    """
    for error in errors.values():
        user_error = _find_user_error(error)
        if user_error is not None:
            raise user_error
    if not any(_was_preempted(error) for error in errors.values()) and not budget.spend():
        raise find_cause(_Failures(errors))


class _Failures(Exception):
    """What the workers of one start failed of, by rank."""

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        super().__init__("workers failed")
        self.worker_failures = dict(errors)


def _was_preempted(failure: BaseException) -> bool:
    return bool(getattr(getattr(failure, "health_check_failure", failure), "preempted", False))


def _died(failure: BaseException) -> bool:
    return hasattr(failure, "health_check_failure")


def _find_user_error(error: BaseException | None) -> QdetError | None:
    """Return the first QdetError, not transient, that `error` is or wraps, of one worker or several."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop(0)
        # Ray's task error is also an instance of the class of the exception it wraps as `cause`.
        if isinstance(one, QdetError) and not isinstance(getattr(one, "cause", None), BaseException):
            if not one.transient:
                return one
            continue
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        queue += [
            getattr(one, name, None) for name in ("_base_exc", "controller_failure", "cause", "__cause__")
        ]
        queue += list((getattr(one, "worker_failures", None) or {}).values())
    return None
