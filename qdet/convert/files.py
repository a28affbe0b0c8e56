"""Read a checkpoint's file: its tensors, and the few settings that shapes do not determine."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from qdet.backbones.weights import read_file, read_weights
from qdet.data.files.json_text import load_json
from qdet.errors import CheckpointError, DataError

_SUPPORTED: dict[str, tuple[object, ...]] = {
    "position_embedding": ("sine", "v2"),  # two names of one
    "transformer_activation": ("prelu",),
    "masks": (False,),
}
"""Values of the authors' switches that a detector here can have; weights do not show the others."""
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Settings that a checkpoint stores beside its tensors; None where it does not."""

    heads: int | None = None
    """Attention heads."""
    queries: int | None = None
    """Queries of a two-stage detector, which stores no tensor per query."""
    points: int | None = None
    """Anchor points of Anchor DETR, which stores no tensor of them if they form a grid."""
    dilated: bool | None = None
    """Whether the backbone's last stage is dilated: DC5."""
    fixed_centers: bool | None = None
    """Whether DAB-DETR's anchors were trained with fixed centres."""
    map_temperatures_yx: tuple[float, float] | None = None
    """Temperatures of DAB-DETR's embedding of a cell's row and column."""
    detections: int | None = None
    """Detections per image."""
    names: tuple[str, ...] | None = None
    """Class names in order of their logits."""


def read(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read a .pth, .bin or .safetensors file, or a folder that transformers saved a model in.

    Settings come from the `args` that the DETR family's authors store, or from the `config.json` beside
    transformers' weights.

    Raises:
        CheckpointError: There is no such file, or it holds no weights.
    """
    if path.is_dir():
        found = [path / name for name in _IN_FOLDER if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path} holds none of {', '.join(_IN_FOLDER)}")
        path = found[0]
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    return read_weights(path), _read_metadata(path)


def _read_metadata(path: Path) -> Metadata:
    beside = path.with_name("config.json")
    if beside.is_file():
        return _of_transformers(_json(beside))
    held = read_file(path) if path.suffix != ".safetensors" else {}
    args = held.get("args") if isinstance(held, dict) else None
    if not isinstance(args, Namespace):
        return Metadata()
    said = vars(args)
    _check_supported(said, path)
    return Metadata(
        heads=said.get("nheads"),
        queries=said.get("num_queries"),
        points=said.get("num_query_position"),
        dilated=said.get("dilation"),
        fixed_centers=said.get("random_refpoints_xy"),
        map_temperatures_yx=_temperatures(said),
        detections=said.get("num_select"),
    )


def _temperatures(said: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return temperatures of rows and columns, if there are any."""
    if "pe_temperatureH" not in said or "pe_temperatureW" not in said:
        return None
    return float(said["pe_temperatureH"]), float(said["pe_temperatureW"])


def _check_supported(said: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError where the authors' switches were set to what no detector here does."""
    for switch, values in _SUPPORTED.items():
        if (value := said.get(switch)) is not None and value not in values:
            known = " or ".join(map(repr, values))
            raise CheckpointError(
                f"{path} was trained with --{switch} {value}, which no detector here has; it takes {known}"
            )


def _of_transformers(config: Mapping[str, Any]) -> Metadata:
    labels = config.get("id2label") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return Metadata(
        heads=config.get("encoder_attention_heads"),
        queries=config.get("two_stage_num_proposals"),
        dilated=config.get("dilation"),
        fixed_centers=config.get("random_refpoints_xy"),
        names=names if names and names[0] != "LABEL_0" else None,  # its placeholder for unnamed classes
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path.read_bytes(), where=str(path))
    except (DataError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings")
    return content
