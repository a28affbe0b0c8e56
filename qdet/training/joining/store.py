"""The store through which torch's process groups find each other, open to ranks with the secret alone.

torch's own TCPStore answers every client that reaches its port: one that sets an address there takes the
place of a rank.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store
from torch.distributed import DistStoreError

from qdet.training.joining.channel import connect
from qdet.training.joining.host import Table

MARGIN = 30.0
"""Seconds for an answer beyond those that rank 0 may wait for a key."""

Ask = Callable[..., Any]
"""Performs an operation of a `Table` by its name."""


class JoinStore(Store):
    """A store of torch. Its methods are those that torch's C++ calls in Python, by these names.

    Args:
        open_table: Returns a way to the table; called once here and once for every clone.
        timeout: Seconds to wait for a key.
    """

    def __init__(self, open_table: Callable[[], Ask], *, timeout: int | float) -> None:
        super().__init__()
        self._open_table, self._seconds = open_table, timeout
        self._ask = open_table()
        self._clones: list[JoinStore] = []  # C++ finds their methods only while Python holds them

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key a value."""
        self._ask("set", key, _to_bytes(value))

    def get(self, key: str) -> bytes:
        """Wait for a key and return its value."""
        return self._ask("get", key, self._seconds)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys have a value."""
        self._ask("wait", list(keys), self._seconds if timeout is None else timeout.total_seconds())

    def add(self, key: str, value: int) -> int:
        """Add to a number and return the sum."""
        return self._ask("add", key, value)

    def append(self, key: str, value: str | bytes) -> None:
        """Append to a value."""
        self._ask("append", key, _to_bytes(value))

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys have a value."""
        return self._ask("check", list(keys))

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        """Replace a value if it is the expected one; return what holds then."""
        return self._ask("compare_set", key, _to_bytes(expected_value), _to_bytes(desired_value))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Wait for keys and return their values."""
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Give keys their values."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def delete_key(self, key: str) -> bool:
        """Forget a key; return whether there was one."""
        return self._ask("delete", key)

    def num_keys(self) -> int:
        """Return the number of keys."""
        return self._ask("count")

    def has_extended_api(self) -> bool:
        """Return True: it can append, and get and set several keys."""
        return True

    def set_timeout(self, timeout: timedelta) -> None:
        """Set how long to wait for a key."""
        self._seconds = timeout.total_seconds()

    def clone(self) -> "JoinStore":
        """Return another way to the same table, for another thread."""
        self._clones.append(JoinStore(self._open_table, timeout=self._seconds))
        return self._clones[-1]

    deleteKey, getNumKeys = delete_key, num_keys


def hosted(table: Table) -> Callable[[], Ask]:
    """Return the way of rank 0 to its own table."""

    def ask(operation: str, *arguments: Any) -> Any:
        try:
            return table.perform(operation, *arguments)
        except TimeoutError as error:
            raise DistStoreError(str(error)) from error

    return lambda: ask


def joined(address: tuple[str, int], secret: bytes, *, timeout: int | float) -> Callable[[], Ask]:
    """Return the way of other ranks to the table at `address`: a connection, one question at a time."""

    def open_table() -> Ask:
        channel, turn = connect(address, secret, timeout=timeout), threading.Lock()

        def ask(operation: str, *arguments: Any) -> Any:
            waits = float(arguments[-1]) if operation in ("get", "wait") else 0.0
            try:
                with turn:
                    channel.socket.settimeout(waits + MARGIN)
                    channel.send([operation, *arguments])
                    outcome, value = channel.receive()
            except OSError as error:
                raise DistStoreError(f"rank 0 cannot be reached: {error}") from error
            if outcome != "done":
                raise DistStoreError(value)
            return value

        return ask

    return open_table


def _to_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
