"""A checkpoint's manifest: size and digest of every file. It is written last, and completes the checkpoint.

It contains a digest of itself and must equal its own rendering byte for byte, so that every flipped bit in it
is detected.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qdet.checkpoint.rank_file import CHUNK, Fingerprint
from qdet.errors import CheckpointError, NewerCheckpointError, StorageError, UnreadableCheckpointError
from qdet.storage import Folder
from qdet.storage.parsing import parse_json

MANIFEST = "manifest.json"
FORMAT = 2
LONGEST = 64 * 2**20
"""Bytes of the longest manifest that is read: some 400,000 ranks."""
REREAD = 1.0
"""Seconds after which a file behind a URL that is not what it should be is read once more."""
_ATTEMPT = re.compile(r"[0-9A-Za-z_-]{1,64}")
_FILE = re.compile(
    rf"rank_\d{{5,}}\.{_ATTEMPT.pattern}\.safetensors|(state|job|tensors)\.{_ATTEMPT.pattern}\.json"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a checkpoint."""

    step: int
    attempt: str
    """Letters in the names of its files, one set per attempt of training."""
    world_size: int = 1
    zero: int = 0
    """ZeRO stage of the training; irrelevant for reading."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of an evaluation of these weights; empty if there was none at this step."""
    files: Mapping[str, Fingerprint]

    def __post_init__(self) -> None:
        """Raise ValueError for names, sizes and numbers that no checkpoint has; a manifest may be anybody's.

        The names are joined to folders, so they hold no slash and nothing else that leads elsewhere.
        """
        numbers = (self.step, self.world_size, self.zero)
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or not _ATTEMPT.fullmatch(self.attempt):
            raise ValueError("it has numbers or letters that no checkpoint has")
        for name, printed in self.files.items():
            fits = isinstance(printed.bytes, int) and printed.bytes >= 0
            if not (fits and _FILE.fullmatch(name) and _SHA256.fullmatch(printed.sha256)):
                raise ValueError(f"it lists {name[:80]!r}, which is no file of a checkpoint")

    def file(self, role: str) -> str:
        """Return the name of the JSON file `role`: state, job or tensors.

        Raises:
            CheckpointError: It is not listed.
        """
        name = f"{role}.{self.attempt}.json"
        if name not in self.files:
            raise CheckpointError(f"the {MANIFEST} of step {self.step} lists no {role} file")
        return name

    @property
    def rank_files(self) -> list[str]:
        """Names of the files with tensors, in order of rank."""
        return sorted(name for name in self.files if name.endswith(".safetensors"))

    @property
    def size(self) -> int:
        """Size of all files together."""
        return sum(f.bytes for f in self.files.values())

    def render(self) -> bytes:
        """Return the content of its file."""
        content = {"format": FORMAT} | asdict(self)
        return _serialize(content | {"digest": _digest(content)})


def read_manifest(folder: Folder) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        UnreadableCheckpointError: Its store does not answer.
        NewerCheckpointError: A later version of qdet wrote it.
        CheckpointError: It is missing, damaged, of an earlier format, or that of another step.
    """
    missing = f"{folder} is not a complete checkpoint: it has no {MANIFEST}"
    with _explain_failure(folder, MANIFEST, missing=missing):
        text = _read_bounded(folder, MANIFEST, LONGEST)
    try:
        manifest = _parse(parse_json(text), folder)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        why = str(error) if str(error).startswith("it ") else "it is not what was written"
        raise CheckpointError(f"{folder}/{MANIFEST} is damaged: {why}") from error
    if text != manifest.render():
        raise CheckpointError(f"{folder}/{MANIFEST} is damaged: it is not what was written")
    _check_name(folder, manifest.step)
    return manifest


def _parse(content: dict[str, Any], folder: Folder) -> Manifest:
    version, digest = content["format"], content.pop("digest", None)
    if isinstance(version, int) and version < FORMAT:
        raise CheckpointError(
            f"{folder}/{MANIFEST} has format {version}, this version of qdet reads {FORMAT}; convert "
            "published weights again, and start over from a run's model with the version that wrote it"
        )
    if digest == _digest(content):  # else nothing that it says can be believed
        _check_version(content, folder)
    if content.pop("format") != FORMAT:
        raise ValueError("it is not what was written")
    files = {name: Fingerprint(**print_) for name, print_ in content.pop("files").items()}
    return Manifest(files=files, **content)


def _check_version(content: Mapping[str, Any], folder: Folder) -> None:
    """Raise where an intact manifest is of a later format, or has what this version does not know."""
    version, known = content["format"], {"format", *(field.name for field in fields(Manifest))}
    unknown = [str(name) for name in content.keys() - known]
    unknown += [name for one in content["files"].values() for name in one.keys() - {"bytes", "sha256"}]
    if version != FORMAT or unknown:
        said = f"its {MANIFEST} has {min(unknown)[:80]!r}" if unknown else f"its format is {version!r:.80}"
        raise NewerCheckpointError(
            f"{folder} was written by a later version of qdet: {said}, which this one does not know. It is "
            "left as it is; use the version that wrote it, or a later one"
        )


def _check_name(folder: Folder, step: int) -> None:
    """Raise where the name of a folder says another step than its manifest."""
    named = re.fullmatch(r"step_(\d+)", folder.name)
    if named and int(named[1]) != step:
        raise CheckpointError(
            f"{folder} holds the checkpoint of step {step}, as its {MANIFEST} says: it was copied or "
            f"renamed; name it step_{step:06d}, if no other folder has that name"
        )


def verify(folder: Folder) -> Manifest:
    """Return a checkpoint's manifest after comparing every byte of its files with it.

    Raises:
        UnreadableCheckpointError: Its store does not answer.
        CheckpointError: A file is missing or damaged; the message names it.
    """
    manifest = read_manifest(folder)
    with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL
        list(pool.map(lambda one: _check(folder, *one), manifest.files.items()))
    return manifest


def copy_and_check(folder: Folder, name: str, expected: Fingerprint, to: Any = None) -> None:
    """Read the file `name` and compare it with `expected`; with `to`, a binary file, also copy it there.

    No more than the expected bytes are read and written, whatever a server sends.

    Raises:
        CheckpointError: It is missing or not what it should be.
    """
    digest, size = hashlib.sha256(), 0
    missing = f"{folder}/{name} is missing although {MANIFEST} lists it"
    with _explain_failure(folder, name, missing=missing), folder.reader(name) as file:
        while size <= expected.bytes and (chunk := file.read(CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            if to is not None and size <= expected.bytes:
                to.write(chunk)
    if Fingerprint(size, digest.hexdigest()) != expected:
        raise CheckpointError(f"{folder}/{name} is damaged: its size or sha256 is not what {MANIFEST} says")


@contextmanager
def _explain_failure(folder: Folder, name: str, *, missing: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(missing) from error
    except StorageError as error:  # it names what was read
        raise UnreadableCheckpointError(str(error)).because_of(error) from error
    except OSError as error:
        raise UnreadableCheckpointError(f"{folder}/{name} cannot be read: {error}") from error


def _read_bounded(folder: Folder, name: str, longest: int) -> bytes:
    """Read a small file, but no more than `longest` bytes of it."""
    content = bytearray()
    with folder.reader(name) as file:
        while len(content) <= longest and (chunk := file.read(CHUNK)):
            content += chunk
    if len(content) > longest:
        raise CheckpointError(f"{folder}/{name} is damaged: it has more than {longest:,} bytes")
    return bytes(content)


def _check(folder: Folder, name: str, expected: Fingerprint) -> None:
    try:
        _compare(folder, name, expected)
    except UnreadableCheckpointError:
        raise
    except CheckpointError:
        if folder.local is not None:
            raise
        time.sleep(REREAD)  # a server or a proxy may have cut it off without an error
        _compare(folder, name, expected)


def _compare(folder: Folder, name: str, expected: Fingerprint) -> None:
    with _explain_failure(folder, name, missing=""):
        size = folder.size(name)
    if size is not None and size != expected.bytes:  # saves reading it
        raise CheckpointError(f"{folder}/{name} is damaged: it has {size} bytes instead of {expected.bytes}")
    copy_and_check(folder, name, expected)


def _serialize(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_serialize(content)).hexdigest()
