"""A folder that transformers loads: config.json, model.safetensors and preprocessor_config.json.

B images   H, W padded height and width   N queries   K classes
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qdet.boxes import cxcywh_to_xyxy
from qdet.data.augment import AugmentConfig
from qdet.detectors.detector import Detector
from qdet.errors import ConfigError, ExportError
from qdet.exporting.graphs import RawGraph
from qdet.exporting.parity import Difference, check
from qdet.exporting.transformers.inverse import fill
from qdet.exporting.transformers.settings import Layout, backbone_settings, find_layout
from qdet.inference.description import Description
from qdet.layers.pixels import MEAN_RGB, STD_RGB, inside
from qdet.types import Predictions


def write_folder(detector: Detector, description: Description, folder: Path) -> Difference:
    """Write a detector, in evaluation mode on the CPU, as a folder, and compare what transformers loads.

    Raises:
        ExportError: transformers has no such detector or pipeline, or computes something else.
        ConfigError: transformers is not installed.
    """
    layout = find_layout(description.detector)
    _check_pipeline(description.augment)
    transformers = _transformers(folder)
    theirs = _build(transformers, layout, description)
    with torch.no_grad():
        fill(theirs.state_dict(), detector.state_dict(), layout.table)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.tmp-", dir=folder.parent) as unfinished:
            whole = Path(unfinished) / "whole"
            theirs.save_pretrained(whole)
            _write_json(whole / "preprocessor_config.json", _preprocessor(layout, description.augment))
            difference = _check(transformers, detector, whole, str(folder))
            _publish(whole, folder)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error}") from error
    return difference


def _build(transformers: Any, layout: Layout, description: Description) -> Any:
    """Build their model with fresh weights and the names of our classes."""
    names = dict(enumerate(description.classes.names))
    backbone: Any = description.detector.backbone
    config = getattr(transformers, f"{layout.name}Config")(
        backbone_config=transformers.ResNetConfig(**backbone_settings(backbone, layout.stages)),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        **layout.settings,
    )
    return getattr(transformers, f"{layout.name}ForObjectDetection")(config).eval()


def _check_pipeline(augment: AugmentConfig) -> None:
    """Raise ExportError for images that no image processor of transformers would prepare alike."""
    if augment.pipeline != "detr" or augment.filter == "opencv":
        raise ExportError(
            f"this model was trained with --data.augment.pipeline {augment.pipeline} and the filter "
            f"{augment.filter}; image processors of transformers prepare images as DETR's authors do alone. "
            "Give a .onnx or .pt2 file, whose form `image` does it itself"
        )


def _preprocessor(layout: Layout, augment: AugmentConfig) -> dict[str, Any]:
    return {
        "image_processor_type": layout.processor,
        "do_resize": True,
        "size": {"shortest_edge": augment.short_side_of_evaluation, "longest_edge": augment.max_size},
        "resample": 2,  # Pillow's bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean / 255 for mean in MEAN_RGB],
        "image_std": [std / 255 for std in STD_RGB],
        "do_pad": True,
    }


def _check(transformers: Any, detector: Detector, folder: Path, name: str) -> Difference:
    """Compare what transformers loads from the folder with the detector."""
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True).eval()

    def session(
        images: Float[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]
    ) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N 4"]]:
        found = predict(theirs, images, sizes_hw)
        return found.logits, found.boxes_xyxy

    return check(RawGraph(detector), session, "raw", name)


def predict(theirs: Any, images: Float[Tensor, "B 3 H W"], sizes_hw: Int[Tensor, "B 2"]) -> Predictions:
    """Predict with a model of transformers; boxes are in pixels of the resized images."""
    mask = inside(sizes_hw, *images.shape[-2:])
    with torch.no_grad():
        out = theirs(pixel_values=images * mask.unsqueeze(1), pixel_mask=mask.long())
    extent = sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)
    return Predictions(out.logits, cxcywh_to_xyxy(out.pred_boxes) * extent)


def _publish(whole: Path, folder: Path) -> None:
    """Give the finished folder its name, and its files the rights of new ones."""
    if folder.is_dir():
        folder.rmdir()  # it is empty
    for file in whole.iterdir():
        shutil.copymode(whole / "preprocessor_config.json", file)
    whole.rename(folder)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2))


def _transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"--to {folder}: a folder is written with transformers; pip install 'qdet[hf]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers
