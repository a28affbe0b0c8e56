"""Pretrained weights: find the file a configuration names, check its digest, load it strictly."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qdet.backbones.download import FLAG, Source, check_digest, download, require_digest
from qdet.backbones.layouts import FRESH, LEVEL_NORM, to_qdet
from qdet.backbones.unpickling import ALLOWED
from qdet.errors import CheckpointError, ConfigError

_PYTORCH = b"PK\x03\x04", b"\x80"
"""How a PyTorch file begins: as a zip archive, or as a pickle."""


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
        raise ConfigError(f"{FLAG} is empty; give a file, a URL or none")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise ConfigError(f"{FLAG}-sha256 must be 8 to 64 lower-case hex digits, got {sha256!r}")


def load_pretrained(module: nn.Module, config: PretrainedConfig, *, allow_unverified: bool = False) -> None:
    """Load what `config.weights` names into `module`, a backbone; None or "none" leaves it as it is.

    Args:
        module: The backbone that `config` builds.
        config: Says where the weights are.
        allow_unverified: Take a download of which no SHA-256 is known as it comes.

    Raises:
        CheckpointError: the file is not there, damaged, or of another model.
        ConfigError: `imagenet` has no weights of this size, or nothing vouches for a download.
    """
    if config.weights is None or _is_none(config.weights):
        return
    if isinstance(module, LoadsItself):
        module.load_pretrained(config.weights)
        return
    path = find_weights(config, allow_unverified=allow_unverified)
    load_state(module, to_qdet(read_weights(path)), name=str(path))


def load_state(module: nn.Module, state: dict[str, Tensor], *, name: str) -> None:
    """Copy `state`, in qdet's own layout, into `module`; errors call it `name`.

    Only parameters that no classifier has may be missing: Swin's norms of levels and the offsets of
    deformable convolutions. Norms of levels that this backbone does not return are left out.
    """
    have = module.state_dict()
    problems = {
        "missing": [key for key in have if key not in state and not FRESH.search(key)],
        "unexpected": [key for key in state if key not in have and not LEVEL_NORM.match(key)],
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

    Besides tensors, a PyTorch file may contain only plain values and a parsed command line (DETR's `args`),
    with the paths and numpy's numbers in it (`qdet.backbones.unpickling`).
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        raise CheckpointError(f"{path} {_explain(path, error)}") from error


def _explain(path: Path, error: Exception) -> str:
    """Say why a file is no weights, without torch's advice to load it unsafely."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"cannot be read as weights: it wants to run {forbidden[1]}"
    with path.open("rb") as file:
        begin = file.read(16)
    if path.suffix != ".safetensors" and not begin.startswith(_PYTORCH):
        return f"is no PyTorch checkpoint: it begins with {begin!r}"
    why = str(error).split("\n")[0]
    advises = "weights_only" in why or not why
    return f"cannot be read as weights: {'its pickle is damaged or of another kind' if advises else why}"


def check_verifiable(config: PretrainedConfig, *, allow_unverified: bool) -> None:
    """Raise ConfigError where `config.weights` is a download that nothing vouches for; touches no network."""
    if _is_none(config.weights) or not (config.weights == "imagenet" or "://" in (config.weights or "")):
        return
    require_digest(_source(config), allow_unverified=allow_unverified)


def find_weights(config: PretrainedConfig, *, allow_unverified: bool = False) -> Path:
    """Return the local file of `config.weights`, downloaded if necessary, after checking its digest."""
    source = _source(config)
    if "://" in source.url:
        return download(source, allow_unverified=allow_unverified)
    if source.url.startswith("package:"):
        path = Path(str(files("qdet.backbones") / source.url.removeprefix("package:")))
    else:
        path = Path(source.url).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{FLAG} {source.url}: there is no file {path}")
    check_digest(path, source)
    return path


def _is_none(weights: str | None) -> bool:
    return weights is None or weights.lower() == "none"


def _source(config: PretrainedConfig) -> Source:
    if config.weights != "imagenet":
        return Source(config.weights or "", config.weights_sha256)
    if config.imagenet is None:
        raise ConfigError(
            f"{FLAG} imagenet: there is no such file for a {type(config).__name__} of this size; "
            f"give {FLAG} PATH, or {FLAG} none to start at random"
        )
    return Source(config.imagenet.url, config.weights_sha256 or config.imagenet.sha256, ours=True)
