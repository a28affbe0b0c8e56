"""Rank 0's end of the join: a table of keys and values, and a server for ranks that know the secret."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from qdet.training.joining.channel import Channel, accept

STRANGERS = 64
"""Connections at a time that have not proved yet that they know the secret; further ones are closed."""


class Table:
    """Keys and values that all ranks see, with the operations of torch's stores. Safe between threads."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._operations: dict[str, Callable[..., Any]] = {
            "set": self.set,
            "get": self.get,
            "wait": self.wait,
            "add": self.add,
            "append": self.append,
            "check": self.check,
            "compare_set": self.compare_set,
            "delete": self.delete,
            "count": self.count,
        }

    def perform(self, operation: str, *arguments: Any) -> Any:
        """Call an operation by its name.

        Raises:
            TimeoutError: A key did not appear in time.
            ValueError: There is no such operation.
        """
        if operation not in self._operations:
            raise ValueError(f"no such operation: {operation}")
        return self._operations[operation](*arguments)

    def set(self, key: str, value: bytes) -> None:
        """Give a key a value."""
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str, seconds: int | float) -> bytes:
        """Wait for a key and return its value."""
        with self._changed:
            self._wait([key], seconds)
            return self._values[key]

    def wait(self, keys: Sequence[str], seconds: int | float) -> None:
        """Wait until all keys have a value."""
        with self._changed:
            self._wait(keys, seconds)

    def add(self, key: str, amount: int) -> int:
        """Add to a number, 0 where it has no value yet, and return the sum."""
        with self._changed:
            total = int(self._values.get(key, b"0")) + amount
            self._values[key] = str(total).encode()
            self._changed.notify_all()
            return total

    def append(self, key: str, value: bytes) -> None:
        """Append to a value, which is empty where there is none yet."""
        with self._changed:
            self._values[key] = self._values.get(key, b"") + value
            self._changed.notify_all()

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys have a value."""
        with self._changed:
            return all(key in self._values for key in keys)

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        """Replace a value if it is the expected one, or missing and none is expected; return the result."""
        with self._changed:
            now = self._values.get(key)
            if now == expected or (now is None and not expected):
                self._values[key] = now = desired
                self._changed.notify_all()
            return expected if now is None else now

    def delete(self, key: str) -> bool:
        """Forget a key; return whether there was one."""
        with self._changed:
            return self._values.pop(key, None) is not None

    def count(self) -> int:
        """Return the number of keys."""
        with self._changed:
            return len(self._values)

    def _wait(self, keys: Sequence[str], seconds: int | float) -> None:
        until = time.monotonic() + seconds
        while missing := [key for key in keys if key not in self._values]:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no rank has set {missing[0]} within {seconds:.0f} s")
            self._changed.wait(left)


class Host:
    """Shows a table to other processes, on daemon threads until `close`.

    Args:
        address: Where to listen: the address of one interface, and a port or 0 for any.
        secret: What a process must know to join.
    """

    def __init__(self, address: tuple[str, int], secret: bytes) -> None:
        self.table = Table()
        self._secret, self._strangers = secret, threading.BoundedSemaphore(STRANGERS)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=512)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        """Where it listens."""
        threading.Thread(target=self._listen, name="qdet-join", daemon=True).start()

    def close(self) -> None:
        """Let no further process join."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                joined, _ = self._listener.accept()
            except OSError:  # closed
                return
            if not self._strangers.acquire(blocking=False):
                joined.close()
                continue
            threading.Thread(target=self._serve, args=(joined,), name="qdet-join", daemon=True).start()

    def _serve(self, joined: socket.socket) -> None:
        try:
            channel = accept(joined, self._secret)
        except OSError:
            return
        finally:
            self._strangers.release()
        with suppress(OSError):
            while True:
                channel.send(self._answer(channel))
        channel.close()

    def _answer(self, channel: Channel) -> list[Any]:
        operation, *arguments = channel.receive()
        try:
            return ["done", self.table.perform(operation, *arguments)]
        except TimeoutError as error:
            return ["late", str(error)]
        except Exception as error:  # its rank is told; the others' connections stay
            return ["failed", f"{type(error).__name__}: {error}"]
