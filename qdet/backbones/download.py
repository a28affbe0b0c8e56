"""Published weights, downloaded once and taken only where their SHA-256 vouches for them.

A digest is published with the file (whole, or its first digits in torchvision's names), given by the user,
or kept from the first download; every later download of that URL must then have it. Where there is none of
these, a file that qdet itself names is taken as it comes the first time, and any other only with
`--store.allow-unverified`. No file is ever unpickled: a wrong one can spoil a training, and do no more.

Files lie in `$QDET_CACHE` (default `~/.cache/qdet`), so that the workers of one machine share a download, and
appear there only when complete; `FILE.sha256` beside one keeps its digest, in the form of `sha256sum`.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qdet.errors import CheckpointError, ConfigError
from qdet.storage.atomic import atomic_file
from qdet.storage.surroundings import expand

FLAG = "--detector.backbone.weights"
ALLOW = "--store.allow-unverified"
_TIMEOUT = 60  # seconds without a byte
_DIGITS = 64
_OR_NONE = f", or start at random with {FLAG} none"


@dataclass(frozen=True)
class Source:
    """A file to download and the SHA-256 it must have, whole or its first digits; None where unknown."""

    url: str
    sha256: str | None = None
    ours: bool = False
    """qdet names this URL, the authors' own: it was not given by a user, whose address may be anybody's."""
    flag: str = FLAG
    """Flag that names another file, for messages; that of its digest ends in `-sha256`."""


def download(source: Source, *, allow_unverified: bool = False) -> Path:
    """Return the local file of a URL, downloaded if necessary, after checking its digest.

    Raises:
        CheckpointError: It cannot be downloaded, or is another file than its digest says.
        ConfigError: No digest of it is known, and `allow_unverified` is off.
    """
    path = cached_path(source.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(path.name + ".lock")):
            require_digest(source, allow_unverified=allow_unverified)
            if path.exists():
                _keep(path, source, _check_all(path, source))
            else:
                _fetch(source, path)
    except OSError as error:
        raise CheckpointError(f"{error}; set QDET_CACHE to a folder that can be written to") from error
    return path


def require_digest(source: Source, *, allow_unverified: bool) -> None:
    """Raise ConfigError where nothing on this machine could tell whether the file is the right one."""
    known = source.sha256 is not None or source.ours or allow_unverified
    if not known and kept_digest(source.url) is None:
        raise ConfigError(
            f"{source.url} cannot be verified: its publisher gives no SHA-256, and no earlier download on "
            f"this machine left one. Give {FLAG}-sha256 DIGEST, or take the file as it comes with {ALLOW}: "
            "its digest is then printed and kept, and every later download must have it"
        )


def check_digest(path: Path, source: Source) -> str:
    """Return the SHA-256 of a file; CheckpointError where it is not as `source` says."""
    digest = _sha256(path)
    if not digest.startswith(source.sha256 or ""):
        raise CheckpointError(
            f"{path} (from {source.url}) has SHA-256 {digest}, expected {source.sha256}: "
            f"it is damaged or another file; delete it, or give its own {source.flag}-sha256"
        )
    return digest


def cached_path(url: str) -> Path:
    """Return where the file of a URL lies once it is downloaded; two URLs may end in the same file name."""
    folder = expand(os.environ.get("QDET_CACHE", "~/.cache/qdet")) / "weights"
    name = Path(url.partition("?")[0]).name
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def kept_digest(url: str) -> str | None:
    """Return the SHA-256 that the first download of a URL had; None where there was none.

    Raises:
        CheckpointError: The file that keeps it is damaged.
    """
    keeper = _keeper(cached_path(url))
    try:
        text = keeper.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{keeper} cannot be read: {error}; it keeps the SHA-256 of {url}") from error
    digest = text.partition(" ")[0].strip()
    if not re.fullmatch(rf"[0-9a-f]{{{_DIGITS}}}", digest):
        raise CheckpointError(
            f"{keeper} should begin with the SHA-256 of {url}, and holds {text[:80]!r}; delete it and give "
            f"{FLAG}-sha256, or {ALLOW} to keep that of the next download"
        )
    return digest


def forget(url: str) -> None:
    """Remove what was downloaded from a URL, and its digest: it has turned out to be something else."""
    path = cached_path(url)
    for file in (path, _keeper(path)):
        file.unlink(missing_ok=True)


def _check_all(path: Path, source: Source) -> str:
    """Check a file against `source`, and against the first download unless a whole digest is given."""
    digest, kept = check_digest(path, source), kept_digest(source.url)
    if kept not in (None, digest) and not _is_whole(source):
        keeper = _keeper(cached_path(source.url))
        raise CheckpointError(
            f"{path} (from {source.url}) has SHA-256 {digest}, and its first download had {kept}: it is "
            "damaged, or was replaced by its publisher or by someone else. Delete it to download it again; "
            f"to trust the other file, give {source.flag}-sha256 {digest}, or delete {keeper}"
        )
    return digest


def _fetch(source: Source, path: Path) -> None:
    """Download beside `path`, check, then rename: no process ever sees half a file."""
    print(f"downloading {source.url} to {path}", file=sys.stderr)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as partial:
        part = Path(partial.name)
        try:
            with urllib.request.urlopen(source.url, timeout=_TIMEOUT) as response:
                shutil.copyfileobj(response, partial)
            partial.flush()
            digest = _check_all(part, source)
            part.chmod(0o644)  # a cache may be shared; temporary files are private
            _keep(path, source, digest)
            part.replace(path)
        except (OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"cannot download {source.url}: {error}. Where this machine has no network, copy the file "
                f"here and give {source.flag} PATH{_OR_NONE if source.flag == FLAG else ''}"
            ) from error
        finally:
            part.unlink(missing_ok=True)


def _keep(path: Path, source: Source, digest: str) -> None:
    """Keep the digest of a first download, or of a file that was trusted for its whole digest."""
    kept = kept_digest(source.url)
    if kept == digest:
        return
    keeper = _keeper(path)
    with atomic_file(keeper) as file:
        file.write(f"{digest}  {path.name}\n".encode())
    if kept is None and not _is_whole(source):
        print(
            f"its SHA-256 is {digest}, kept in {keeper}: every later download must have it; pin it for other "
            f"machines with {source.flag}-sha256 {digest}",
            file=sys.stderr,
        )


def _is_whole(source: Source) -> bool:
    return source.sha256 is not None and len(source.sha256) == _DIGITS


def _keeper(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
