"""The settings of transformers' detectors that compute what ours do, one function per paper."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qdet.backbones import ResNetConfig
from qdet.backbones.resnet import BOTTLENECKS
from qdet.convert.papers.conditional_detr import CONDITIONAL_DETR
from qdet.convert.papers.dab_detr import DAB_DETR
from qdet.convert.papers.deformable_detr import DEFORMABLE_DETR, DEFORMABLE_DETR_REFINE
from qdet.convert.papers.detr import DETR
from qdet.convert.rename import Table
from qdet.detectors import (
    ConditionalDETRConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DetectorConfig,
    DETRConfig,
)
from qdet.detectors.transformer_config import TransformerConfig
from qdet.errors import ExportError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A detector of transformers."""

    name: str
    """Its classes are called NAMEConfig and NAMEForObjectDetection."""
    processor: str
    """Class of its image processor."""
    table: Table
    """The names of the paper's authors, to which `qdet.convert.transformers` translates."""
    settings: Mapping[str, Any]
    """Settings of its configuration, all but backbone and classes."""
    stages: int = 1
    """Stages of the backbone that it reads, from the last."""


def find_layout(config: DetectorConfig) -> Layout:
    """Return the layout of a detector.

    Raises:
        ExportError: transformers has no such detector, or none with these settings.
    """
    for kind, make in _PAPERS.items():
        if isinstance(config, kind):
            _check_backbone(config)
            return make(config)
    known = ", ".join(kind.__name__.removesuffix("Config") for kind in _PAPERS)
    name = type(config).__name__.removesuffix("Config")
    raise ExportError(f"transformers has no {name}; its layout exists for {known}. Give a .onnx or .pt2 file")


def backbone_settings(config: ResNetConfig, stages: int) -> dict[str, Any]:
    """Return the settings of transformers' ResNet, whose last `stages` are read."""
    return {
        "embedding_size": config.width,
        "hidden_sizes": [4 * config.width * 2**stage for stage in range(4)],
        "depths": list(BOTTLENECKS[config.depth]),
        "layer_type": "bottleneck",
        "out_features": [f"stage{stage}" for stage in range(5 - stages, 5)],
    }


def _detr(config: DETRConfig) -> Layout:
    if config.pre_norm:
        raise ExportError("transformers' DETR has no pre-norm layers, which --detector.pre-norm asks for")
    if config.scores != "softmax" or config.skip_first:
        raise ExportError(
            "transformers' DETR has softmax scores and attention between queries in every layer, not "
            f"--detector.scores {config.scores} or --detector.skip-first"
        )
    settings = _shared(config) | {"d_model": config.width, "num_queries": config.queries}
    return Layout(name="Detr", processor="DetrImageProcessor", table=DETR, settings=settings)


def _conditional(config: ConditionalDETRConfig) -> Layout:
    return Layout(
        name="ConditionalDetr",
        processor="ConditionalDetrImageProcessor",
        table=CONDITIONAL_DETR,
        settings=_shared(config) | {"d_model": config.width, "num_queries": config.queries},
    )


def _dab(config: DABDETRConfig) -> Layout:
    if config.query_temperature != 10_000:
        raise ExportError(
            "transformers' DAB-DETR has --detector.query-temperature 10000 alone, this one "
            f"{config.query_temperature}"
        )
    if not (config.modulated and config.updated and config.anchor_dims == 4):
        raise ExportError(
            "transformers' DAB-DETR has boxes as anchors, which it updates and modulates attention with: "
            "--detector.anchor-dims 4, --detector.updated and --detector.modulated"
        )
    if config.denoising.kind != "none":
        raise ExportError(
            "transformers' DAB-DETR starts queries from nothing, one trained with denoising from a learned "
            "vector; give a .onnx or .pt2 file"
        )
    height, width = config.map_temperatures_yx
    if not (float(height).is_integer() and float(width).is_integer()):
        raise ExportError(
            "transformers' DAB-DETR has whole numbers for --detector.map-temperatures-yx, not "
            f"{config.map_temperatures_yx}"
        )
    own = {
        "hidden_size": config.width,
        "num_queries": config.anchors,
        "num_patterns": config.patterns,
        "random_refpoints_xy": config.fixed_centers,
        "temperature_height": int(height),
        "temperature_width": int(width),
    }
    return Layout(
        name="DabDetr",
        processor="ConditionalDetrImageProcessor",
        table=DAB_DETR,
        settings=_shared(config) | own,
    )


def _deformable(config: DeformableDETRConfig) -> Layout:
    own = {
        "d_model": config.width,
        "num_queries": config.queries,
        "num_feature_levels": config.levels,
        "encoder_n_points": config.encoder_points,
        "decoder_n_points": config.decoder_points,
        "with_box_refine": config.refine,
        "two_stage": config.two_stage,
        "two_stage_num_proposals": config.queries,
    }
    return Layout(
        name="DeformableDetr",
        processor="DeformableDetrImageProcessor",
        table=DEFORMABLE_DETR_REFINE if config.refine else DEFORMABLE_DETR,
        settings=_shared(config) | own,
        stages=config.backbone_levels,
    )


def _shared(config: TransformerConfig) -> dict[str, Any]:
    """Return what all four have; those without an encoder's number of layers do not come here."""
    return {
        "encoder_layers": config.encoder_layers,  # type: ignore[attr-defined]
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.ffn,
        "decoder_ffn_dim": config.ffn,
        "dropout": config.dropout,
    }


def _check_backbone(config: DetectorConfig) -> None:
    backbone = config.backbone
    if not isinstance(backbone, ResNetConfig) or backbone.groups != 1 or backbone.width_per_group != 64:
        raise ExportError(
            f"transformers' layout is written for ResNets, not for {type(backbone).__name__}"
            f"{' with groups' if isinstance(backbone, ResNetConfig) else ''}; give a .onnx or .pt2 file"
        )
    if backbone.norm == "group":
        raise ExportError(
            "transformers' ResNet has batch norm, this backbone group norm, as in --demo; give a .onnx or "
            ".pt2 file"
        )
    if backbone.dilate_c5:
        raise ExportError(
            "transformers' ResNet cannot dilate its last stage (DC5) without timm; give a .onnx or .pt2 file"
        )


_PAPERS: dict[type, Callable[[Any], Layout]] = {
    DETRConfig: _detr,
    ConditionalDETRConfig: _conditional,
    DeformableDETRConfig: _deformable,
    DABDETRConfig: _dab,
}
