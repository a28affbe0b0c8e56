"""Exceptions leave a worker as they were, or without the secrets that they held."""

import pickle
import traceback

import pytest

from qdet.errors import DataError
from qdet.launching.ray_backend.failures import cause_of
from qdet.launching.ray_backend.masked_errors import MaskedError, masks_errors

SECRET = "canary5pw"
URL = f"http://me:{SECRET}@127.0.0.1:9/shards"


def raised(task) -> Exception:
    """What comes out of `task` when its errors are masked."""
    with pytest.raises((KeyError, OSError, ValueError, MaskedError)) as caught:
        masks_errors(task)()
    return caught.value


def everything(error: BaseException) -> str:
    """All that Python prints of an exception, and of those it holds, as Ray does after a journey."""
    return "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.__context__)


def test_an_exception_without_secrets_is_passed_on_unchanged():
    one = KeyError("stage 3")

    def fail():
        raise one

    assert raised(fail) is one


def test_a_librarys_exception_is_masked():
    def fail():
        raise ConnectionError(f"no answer from {URL}")

    error = raised(fail)
    assert isinstance(error, MaskedError)
    assert SECRET not in everything(error)
    first, *rest = str(error).splitlines()
    assert first == "ConnectionError: no answer from http://me:***@127.0.0.1:9/shards"
    assert any(line.endswith("in fail") for line in rest)  # the traceback
    assert str(cause_of(error)) == f"training failed: {first}"


def test_a_secret_in_the_cause_of_an_exception_is_masked():
    def fail():
        try:
            raise OSError(URL)
        except OSError as error:
            raise ValueError("no shards") from error

    error = raised(fail)
    assert SECRET not in everything(error)
    assert str(error).startswith("ValueError: no shards\n")
    assert "OSError: http://me:***@" in str(error)


def test_an_error_of_ours_keeps_its_class_and_message():
    def fail():
        try:
            raise OSError(URL)
        except OSError as error:
            raise DataError(f"{URL}: no shards") from error

    error = raised(fail)
    assert type(error) is DataError
    assert str(error) == "http://me:***@127.0.0.1:9/shards: no shards"
    travelled = pickle.loads(pickle.dumps(error))
    for one in (error, travelled):
        assert SECRET not in everything(one)
        assert "OSError: http://me:***@" in everything(one)
