"""A cache of the values that were computed last, shared by threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Caches the values that were requested last; one that two threads request is computed by one of them."""

    def __init__(self, kept: int) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._values: OrderedDict[K, Future[V]] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of `key`, by calling `make` if it is not kept; a failure is not kept."""
        with self._lock:
            value, mine = self._values.get(key), False
            if value is None:
                value, mine = Future(), True
                self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._kept:
                self._values.popitem(last=False)
        if mine:
            self._fill(key, value, make)
        return value.result()

    def _fill(self, key: K, value: Future[V], make: Callable[[], V]) -> None:
        try:
            value.set_result(make())
        except BaseException as error:
            with self._lock:
                self._values.pop(key, None)
            value.set_exception(error)
