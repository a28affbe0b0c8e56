"""Write in-memory samples with webdataset's tar writer to a file that counts and hashes.

The bytes are those of webdataset alone, without its overhead: tarfile builds every header anew and
webdataset streams records of 10 kB, which takes as long as reading, hashing and writing together.
"""

import hashlib
import tarfile
from typing import Any, BinaryIO

NUL = b"\0"


class SampleTar:
    """webdataset's writer that reports the offset of every file."""

    def __init__(self, file: "HashingFile") -> None:
        from webdataset.writer import (
            TarWriter,  # brings PyTorch along: only processes that write shards need it
        )

        whole: Any = file  # an appending tar needs no more of a file
        self._writer = TarWriter(whole, user="", group="", mode=0o644, mtime=0, encoder=False)
        self._tar = _FewHeaders(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT)
        self._writer.tarstream = self._tar

    def add(self, key: str, files: dict[str, bytes]) -> dict[str, int]:
        """Append a sample; return the offset of each file by extension, in the order written."""
        at, begins = self._tar.offset, {}
        self._writer.write({"__key__": key, **files})
        for extension in sorted(files):
            begins[extension] = at + tarfile.BLOCKSIZE
            at = begins[extension] + -(-len(files[extension]) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if at != self._tar.offset:
            raise RuntimeError(f"webdataset did not write sample {key} with one header per file")
        return begins

    def close(self) -> None:
        """Write the end of the tar; the file stays open."""
        self._writer.close()


class HashingFile:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Append `data`."""
        self.size += len(data)
        self.sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size


class _FewHeaders(tarfile.TarFile):
    """A tar whose headers differ only in name, size and checksum: tarfile builds just the first."""

    def addfile(self, tarinfo: tarfile.TarInfo, fileobj: Any = None) -> None:
        """Append a file of less than 8 GiB with a name of up to 100 bytes."""
        data = fileobj.read()
        header = self._header(tarinfo)
        padding = NUL * (-len(data) % tarfile.BLOCKSIZE)
        file: Any = self.fileobj
        for part in (header, data, padding):
            file.write(part)
        self.offset += len(header) + len(data) + len(padding)

    def _header(self, tarinfo: tarfile.TarInfo) -> bytes:
        if not self.offset:
            first = tarinfo.tobuf(tarfile.USTAR_FORMAT)
            self._owner, self._time, self._rest = first[100:124], first[136:148], first[156:]
            self._sum = sum(self._owner + self._time + b" " * 8 + self._rest)
        name, size = tarinfo.name.encode(), b"%011o\0" % tarinfo.size
        checksum = b"%06o\0 " % (self._sum + sum(name) + sum(size))
        return b"".join((name.ljust(100, NUL), self._owner, size, self._time, checksum, self._rest))
