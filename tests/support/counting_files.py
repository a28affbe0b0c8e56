"""A file system in memory that counts rounds: requests that had to wait for the answers to others."""

import threading

from fsspec.implementations.memory import MemoryFileSystem


class CountingFiles(MemoryFileSystem):
    """Looks like an object store. Requests of other threads than the main one are answered in groups.

    A group is answered when `together` requests wait, or when the last of `expected` of one kind does:
    so rounds do not depend on how quick threads are.
    """

    protocol = "s3"
    cachable = False

    def __init__(self, *, expected: int, together: int = 64) -> None:
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self._expected, self._together = expected, together
        self.counting(on=False)

    def counting(self, *, on: bool = True) -> None:
        """Begin to count anew, or stop counting."""
        self.on, self.rounds, self.requests = on, 0, dict[str, int]()
        self._waiting, self._answered, self._turn = 0, 0, threading.Condition()

    def _request(self, kind: str) -> None:
        if not self.on:
            return
        with self._turn:
            self.requests[kind] = self.requests.get(kind, 0) + 1
            if threading.current_thread() is threading.main_thread():
                self.rounds += 1
                return
            self._waiting += 1
            group = self._answered
            if self._waiting == self._together or self.requests[kind] % self._expected == 0:
                self.rounds, self._waiting, self._answered = self.rounds + 1, 0, group + 1
                self._turn.notify_all()
            elif not self._turn.wait_for(lambda: self._answered > group, timeout=20):
                raise AssertionError(f"{self._waiting} requests at a time, of {self._together}")

    def info(self, path, **options):
        """Answer a HEAD."""
        self._request("HEAD")
        return super().info(path, **options)

    def ls(self, path, detail=True, **options):
        """Answer a LIST."""
        self._request("LIST")
        return super().ls(path, detail=detail, **options)

    def cat_file(self, path, start=None, end=None, **options):
        """Answer a GET."""
        self._request("GET")
        return super().cat_file(path, start=start, end=end, **options)

    def put_file(self, lpath, rpath, **options):
        """Answer a PUT."""
        self._request("PUT")
        with open(lpath, "rb") as file:  # noqa: PTH123
            self.pipe_file(rpath, file.read())

    def rm_file(self, path):
        """Answer a DELETE."""
        self._request("DELETE")
        super().rm_file(path)
