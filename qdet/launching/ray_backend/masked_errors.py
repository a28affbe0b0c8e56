"""Mask secrets in exceptions before they leave a Ray worker.

A library's exception may quote a URL with its password, and Ray prints every exception, with its chain, in
the logs of worker, controller and driver.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from qdet.errors import QdetError
from qdet.masking import mask

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class MaskedError(RuntimeError):
    """Replaces an exception whose traceback holds a secret: its class, message and traceback, masked."""


def mask_errors(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Return `function` with the secrets masked in what it raises.

    A third-party exception that holds a secret becomes a `MaskedError`; a QdetError keeps its class.
    """

    @wraps(function)
    def masked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            replacement = _mask_exception(error)
            if replacement is None:
                raise
        # Outside `except`, so that the new exception is not chained to the old one.
        raise replacement

    return masked


def _mask_exception(error: Exception) -> Exception | None:
    """Return what to raise instead of `error`, or None if it holds no secret."""
    text = "".join(traceback.format_exception(error))
    masked = mask(text)
    if masked == text:
        return None
    if not isinstance(error, QdetError):
        first = "".join(traceback.format_exception_only(error)).strip()
        return MaskedError(f"{mask(first)}\n\n{masked}")
    # Its message was masked when it was made, and its class says that a restart will not help.
    error.__cause__ = error.__context__ = error.__traceback__ = None
    error.add_note(f"Caused by:\n{masked}")
    return error
