"""Exceptions leave a worker unchanged, or with their secrets masked."""

import pickle
import traceback

import pytest

from qdet.errors import DataError
from qdet.launching.ray_backend.failures import find_cause
from qdet.launching.ray_backend.masked_errors import MaskedError, mask_errors

SECRET = "canary5pw"
URL = f"http://me:{SECRET}@127.0.0.1:9/shards"


def catch_masked(task) -> Exception:
    """Return the exception that `task` raises when its errors are masked."""
    with pytest.raises((KeyError, OSError, ValueError, MaskedError)) as caught:
        mask_errors(task)()
    return caught.value


def format_fully(error: BaseException) -> str:
    """Return all that Python or Ray could print of an exception, its chain and its attributes."""
    return "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.__context__)


def test_an_exception_without_secrets_is_passed_on_unchanged():
    one = KeyError("stage 3")

    def fail():
        raise one

    assert catch_masked(fail) is one


def test_a_librarys_exception_is_masked():
    def fail():
        raise ConnectionError(f"no answer from {URL}")

    error = catch_masked(fail)
    assert isinstance(error, MaskedError)
    assert SECRET not in format_fully(error)
    first, *rest = str(error).splitlines()
    assert first == "ConnectionError: no answer from http://me:***@127.0.0.1:9/shards"
    assert any(line.endswith("in fail") for line in rest)  # the traceback
    assert str(find_cause(error)) == f"training failed: {first}"


def test_a_secret_in_the_cause_of_an_exception_is_masked():
    def fail():
        try:
            raise OSError(URL)
        except OSError as error:
            raise ValueError("no shards") from error

    error = catch_masked(fail)
    assert SECRET not in format_fully(error)
    assert str(error).startswith("ValueError: no shards\n")
    assert "OSError: http://me:***@" in str(error)


def test_an_error_of_ours_keeps_its_class_and_message():
    def fail():
        try:
            raise OSError(URL)
        except OSError as error:
            raise DataError(f"{URL}: no shards") from error

    error = catch_masked(fail)
    assert type(error) is DataError
    assert str(error) == "http://me:***@127.0.0.1:9/shards: no shards"
    unpickled = pickle.loads(pickle.dumps(error))
    for one in (error, unpickled):
        assert SECRET not in format_fully(one)
        assert "OSError: http://me:***@" in format_fully(one)
