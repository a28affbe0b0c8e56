"""Exceptions that carry no secret out of a Ray worker.

What a library raises may quote a URL with its password, and Ray prints an exception, with all that led to it,
in the worker's log, in the controller's and in the driver's.
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
    """Stands for an exception whose traceback held a secret: its class, message and traceback, masked."""


def masks_errors(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Have a function raise what it raises, but for the secrets in it.

    A library's exception of which anything is secret becomes a `MaskedError`; an error of ours keeps its
    class.
    """

    @wraps(function)
    def masked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            stood_for = _without_secrets(error)
            if stood_for is None:
                raise
        # Outside of `except`, so that the new exception does not lead back to the old one.
        raise stood_for

    return masked


def _without_secrets(error: Exception) -> Exception | None:
    """Return what to raise in the place of `error`, or None where nothing of it is secret."""
    told = "".join(traceback.format_exception(error))
    masked = mask(told)
    if masked == told:
        return None
    if not isinstance(error, QdetError):
        first = "".join(traceback.format_exception_only(error)).strip()
        return MaskedError(f"{mask(first)}\n\n{masked}")
    # Its own message was masked when it was made, and its class tells that trying again is no use.
    error.__cause__ = error.__context__ = error.__traceback__ = None
    error.add_note(f"It came of:\n{masked}")
    return error
