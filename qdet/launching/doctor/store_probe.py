"""Whether a store is one and the same from every machine, and how fast: a probe, removed afterwards.

The driver writes a file; each machine reads that and writes its own, which the driver reads. A folder that
only has the same name on every machine is found so.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qdet.errors import type_and_first_line
from qdet.launching.doctor.facts import StoreProbe
from qdet.storage import Folder

PREFIX = ".qdet-doctor-"
"""Beginning of the folder inside the store that holds the probe."""
DRIVER = "driver"
"""Name of its file, and of this process among the machines."""
_BLOCK = 2**20


@contextmanager
def open_probe(store: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name of a probe's folder in a store and what its driver's file holds; remove it at the end.

    Raises:
        OSError: The store cannot be written to.
    """
    folder, content = Folder.open(store), secrets.token_bytes(32)
    new = folder.local is not None and not folder.local.exists()
    name = f"{PREFIX}{secrets.token_hex(6)}"
    probe = folder.child(name)
    try:
        probe.put(DRIVER, content)
        yield name, content
    finally:
        with suppress(OSError):
            probe.remove("")
        if new and folder.local is not None:
            with suppress(OSError):
                folder.local.rmdir()  # only where nothing else is in it by now


def try_store(store: str, name: str, content: bytes, *, own: str, size: int) -> StoreProbe:
    """Read the driver's file, and write and read one of this machine.

    Args:
        store: Path or URL.
        name: Of the probe's folder.
        content: Of the driver's file.
        own: Name of this machine's file.
        size: Its bytes.
    """
    probe = Folder.open(store).child(name)
    try:
        if probe.read(DRIVER) != content:
            return StoreProbe(sees=False, error="it reads other bytes than the driver wrote")
    except FileNotFoundError:
        return StoreProbe(sees=False)
    except Exception as error:  # every kind of store has errors of its own
        return StoreProbe(sees=False, error=type_and_first_line(error))
    try:
        return _measure(probe, own, size)
    except Exception as error:
        return StoreProbe(sees=True, error=type_and_first_line(error))


def sees(store: str, name: str, own: str) -> bool:
    """Whether the driver reads the file of a machine."""
    with suppress(Exception):
        return Folder.open(store).child(name).size(own) is not None
    return False


def _measure(probe: Folder, own: str, size: int) -> StoreProbe:
    block, started = secrets.token_bytes(_BLOCK), time.perf_counter()
    with probe.writer(own) as file:
        for _ in range(max(1, size // _BLOCK)):
            file.write(block)
    written = time.perf_counter()
    with probe.reader(own) as file:
        total = 0
        while part := file.read(_BLOCK):
            if part != block[: len(part)]:
                return StoreProbe(sees=True, error="it does not give back what was written to it")
            total += len(part)
    took = time.perf_counter() - written
    return StoreProbe(sees=True, write=total / (written - started), read=total / took)


def local_path(store: str) -> Path | None:
    """Return where a store is on this machine; None of one behind a URL."""
    with suppress(OSError):
        return Folder.open(store).local
    return None
