"""Pretrained weights: find the file a configuration names, check its digest, load it strictly.

Files are downloaded once to `$QDET_CACHE` (default `~/.cache/qdet`), under a lock, so that the workers of
one machine share a download, and appear there only when complete.
"""

import argparse
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
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qdet.backbones.layouts import FRESH, to_qdet
from qdet.errors import CheckpointError, ConfigError

_FLAG = "--detector.backbone.weights"
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Source:
    """A file to download and the SHA-256 it must have, whole or its first digits; None where unknown."""

    url: str
    sha256: str | None = None


@runtime_checkable
class PretrainedConfig(Protocol):
    """The part of a backbone's configuration that names its starting weights."""

    @property
    def weights(self) -> str | None:
        """`imagenet`, a URL, a file, `package:NAME` for a file that qdet ships, or None."""
        ...

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the file, or its first digits."""
        ...

    @property
    def imagenet(self) -> Source | None:
        """The file that `imagenet` means at this size, if any."""
        ...


@runtime_checkable
class LoadsItself(Protocol):
    """A backbone that loads its weights through another library."""

    def load_pretrained(self, weights: str) -> None:
        """Load what `weights` names."""
        ...


def check_weights(weights: str | None, sha256: str | None) -> None:
    """Raise ConfigError for settings that cannot name a file."""
    if weights == "":
        raise ConfigError(f"{_FLAG} is empty; give a file, a URL or none")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise ConfigError(f"{_FLAG}-sha256 must be 8 to 64 lower-case hex digits, got {sha256!r}")


def load_pretrained(module: nn.Module, config: PretrainedConfig) -> None:
    """Load what `config.weights` names into `module`, a backbone; None or "none" leaves it as it is.

    Raises:
        CheckpointError: the file is not there, damaged, or of another model.
        ConfigError: `imagenet` has no weights of this size.
    """
    if config.weights is None or config.weights.lower() == "none":
        return
    if isinstance(module, LoadsItself):
        module.load_pretrained(config.weights)
        return
    path = find_weights(config)
    load_state(module, to_qdet(read_weights(path)), name=str(path))


def load_state(module: nn.Module, state: dict[str, Tensor], *, name: str) -> None:
    """Copy `state`, in qdet's own layout, into `module`; errors call it `name`.

    Only parameters that no classifier has may be missing: Swin's norms of levels and the offsets of
    deformable convolutions.
    """
    have = module.state_dict()
    problems = {
        "missing": [key for key in have if key not in state and not FRESH.search(key)],
        "unexpected": [key for key in state if key not in have],
        "of another shape": [
            f"{key} {tuple(state[key].shape)}, not {tuple(have[key].shape)}"
            for key in have
            if key in state and state[key].shape != have[key].shape
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{name} does not fit this backbone. {said}")
    module.load_state_dict(state, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or PyTorch file, without running code from it."""
    held = read_file(path)
    for top in ("model", "state_dict"):  # the authors of Swin and DETR; mmdetection
        if isinstance(held, dict) and isinstance(held.get(top), dict):
            held = held[top]
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointError(f"{path} holds no state dict: expected names and tensors, or a `model` of them")
    return dict(held)


def read_file(path: Path) -> object:
    """Read the content of a .safetensors or PyTorch file, without running code from it.

    Besides tensors, a PyTorch file may contain only plain values and a parsed command line (DETR's `args`).
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it wants to run {forbidden[1]}" if forbidden else str(error).split("\n")[0]
        raise CheckpointError(f"{path} cannot be read as weights: {why or type(error).__name__}") from error


def find_weights(config: PretrainedConfig) -> Path:
    """Return the local file of `config.weights`, downloaded if necessary, after checking its digest."""
    source = _source(config)
    if "://" in source.url:
        return _download(source)
    if source.url.startswith("package:"):
        path = Path(str(files("qdet.backbones") / source.url.removeprefix("package:")))
    else:
        path = Path(source.url).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{_FLAG} {source.url}: there is no file {path}")
    _check_digest(path, source)
    return path


def _source(config: PretrainedConfig) -> Source:
    if config.weights != "imagenet":
        return Source(config.weights or "", config.weights_sha256)
    if config.imagenet is None:
        raise ConfigError(
            f"{_FLAG} imagenet: there is no such file for a {type(config).__name__} of this size; "
            f"give {_FLAG} PATH, or {_FLAG} none to start at random"
        )
    return Source(config.imagenet.url, config.weights_sha256 or config.imagenet.sha256)


def _download(source: Source) -> Path:
    folder = Path(os.environ.get("QDET_CACHE", "~/.cache/qdet")).expanduser() / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    # Two URLs may end in the same file name.
    path = folder / f"{hashlib.sha256(source.url.encode()).hexdigest()[:8]}-{Path(source.url).name}"
    with _lock(path.with_name(path.name + ".lock")):
        if not path.exists():
            _fetch(source, path)
    _check_digest(path, source)
    return path


def _fetch(source: Source, path: Path) -> None:
    """Download beside `path`, check, then rename: no process ever sees half a file."""
    print(f"downloading {source.url} to {path}", file=sys.stderr)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as partial:
        part = Path(partial.name)
        try:
            with urllib.request.urlopen(source.url, timeout=_TIMEOUT) as response:
                shutil.copyfileobj(response, partial)
            partial.flush()
            _check_digest(part, source)
            part.chmod(0o644)  # a cache may be shared; temporary files are private
            part.replace(path)
        except (OSError, ValueError) as error:
            part.unlink(missing_ok=True)
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"cannot download {source.url}: {error}. Where this machine has no network, copy the file "
                f"here and give {_FLAG} PATH, or start at random with {_FLAG} none"
            ) from error
    if source.sha256 is None:
        digest = _sha256(path)
        print(f"its SHA-256 is {digest}; pin it with {_FLAG}-sha256 {digest}", file=sys.stderr)


def _check_digest(path: Path, source: Source) -> None:
    if source.sha256 is None:
        return
    digest = _sha256(path)
    if not digest.startswith(source.sha256):
        raise CheckpointError(
            f"{path} (from {source.url}) has SHA-256 {digest}, expected {source.sha256}: "
            f"it is damaged or another file; delete it, or give its own {_FLAG}-sha256"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
