"""Infer a detector's settings from the shapes of its weights, under qdet's names.

Shapes say nothing of dropout and the like, which keep the paper's values, and little of attention heads:
where neither shapes nor the file give them, they are the 8 of all these papers.
"""

from dataclasses import replace
from math import isqrt, sqrt
from typing import Any

from qdet.backbones import BackboneConfig, ResNetConfig
from qdet.convert.files import Metadata
from qdet.convert.shapes import Shapes
from qdet.detectors import (
    DN_DETR_DENOISING,
    AdaMixerConfig,
    AnchorDETRConfig,
    ConditionalDETRConfig,
    ConvSMCAConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DenoisingConfig,
    DETRConfig,
    DINOConfig,
    SMCAConfig,
    SparseRCNNConfig,
)
from qdet.detectors.smca.gaussian_prior import NUMBERS

_HEADS = 8


def detr(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> DETRConfig:
    """Read a DETR."""
    return DETRConfig(
        backbone=backbone,
        queries=weights["decoder.position.weight"][0],
        pre_norm="encoder.norm.weight" in weights,
        **_transformer(weights, metadata),
    )


def conditional_detr(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> ConditionalDETRConfig:
    """Infer a Conditional DETR."""
    queries = weights["decoder.position.weight"][0]
    return ConditionalDETRConfig(backbone=backbone, queries=queries, **_transformer(weights, metadata))


def dab_detr(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> DABDETRConfig:
    """Read a DAB-DETR, or a DN-DETR, which embeds labels."""
    patterns = "decoder.queries.patterns.weight"
    stated: dict[str, Any] = {}
    if metadata.map_temperatures_yx is not None:
        stated["map_temperatures_yx"] = metadata.map_temperatures_yx
    if metadata.detections is not None:
        stated["detections"] = metadata.detections
    return DABDETRConfig(
        backbone=backbone,
        anchors=weights["decoder.queries.boxes.weight"][0],
        patterns=weights[patterns][0] if patterns in weights else 0,
        fixed_centers="decoder.queries.centers" in weights,
        denoising=DN_DETR_DENOISING if "decoder.queries.labels.weight" in weights else DenoisingConfig(),
        **stated,
        **_transformer(weights, metadata),
    )


def anchor_detr(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> AnchorDETRConfig:
    """Infer an Anchor DETR. Grid points are in no tensor; their number is rounded to a square."""
    shared, learned = _transformer(weights, metadata), "decoder.points.weight"
    cross = "decoder.layers.0.cross_attention.update."
    levels = 3 if cross + "fuse.weight" in weights else 1
    shared["encoder_layers"] += weights.count("encoder.level_layers.")
    if levels == 3 and isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, dilate_c5=True)  # otherwise its maps could not be stacked
    return AnchorDETRConfig(
        backbone=backbone,
        points=weights[learned][0] if learned in weights else round(sqrt(metadata.points or 300)) ** 2,
        patterns=weights["decoder.patterns.weight"][0],
        anchors="learned" if learned in weights else "grid",
        attention="row_column" if "embed_axis.layers.0.weight" in weights else "plain",
        levels=levels,
        **shared,
    )


def dino(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> DINOConfig:
    """Infer a DINO. Where contents are features of tokens, no tensor says how many queries there are."""
    learned, shared = "selection.content.weight", _transformer(weights, metadata)
    shared |= _sampling(weights, shared["heads"])
    return DINOConfig(
        backbone=backbone,
        queries=weights[learned][0] if learned in weights else metadata.queries or 900,
        content="learned" if learned in weights else "token",
        shared_heads=weights.count("decoder.heads.") == 1,
        **shared,
    )


def deformable_detr(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> DeformableDETRConfig:
    """Infer a Deformable DETR. Two-stage ones store no tensor per query and all have 300."""
    shared, learned = _transformer(weights, metadata), "start.embedding.weight"
    return DeformableDETRConfig(
        backbone=backbone,
        queries=weights[learned][0] if learned in weights else metadata.queries or 300,
        refine=weights.count("heads.") > 1,
        two_stage=learned not in weights,
        **shared,
        **_sampling(weights, shared["heads"]),
    )


def smca(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> SMCAConfig:
    """Infer a single-scale SMCA-DETR; each head has an offset of two numbers."""
    prior = "decoder.layers.0.prior."
    heads = weights[prior + "offset.weight"][0] // 2
    decided = prior + "sharpness.weight"
    numbers = weights[decided][0] // heads if decided in weights else 0
    shared: dict[str, Any] = _transformer(weights, metadata) | {"heads": heads}
    return SMCAConfig(
        backbone=backbone,
        queries=weights["decoder.position.weight"][0],
        sharpness=next(sharpness for sharpness, count in NUMBERS.items() if count == numbers),
        **shared,
    )


def conv_smca(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> ConvSMCAConfig:
    """Infer a convolutional SMCA-DETR; each head has an offset on each of four scales."""
    own: dict[str, Any] = {
        "heads": weights["decoder.layers.0.prior.offset.weight"][0] // 8,
        "encoder_layers": weights.count("encoder."),
    }
    return ConvSMCAConfig(
        backbone=backbone,
        queries=weights["decoder.position.weight"][0],
        kernel=weights["encoder.0.attention.update.within.0.weight"][-1],
        **_transformer(weights, metadata) | own,
    )


def sparse_rcnn(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> SparseRCNNConfig:
    """Infer a Sparse R-CNN."""
    stage = "decoder.stages.0."
    queries, width = weights["decoder.content.weight"]
    cells = weights[stage + "interaction.update.out.weight"][1] // width
    return SparseRCNNConfig(
        backbone=backbone,
        queries=queries,
        stages=weights.count("decoder.stages."),
        width=width,
        heads=metadata.heads or _HEADS,
        ffn=weights[stage + "ffn.update.expand.weight"][0],
        roi_size=isqrt(cells),
        filters=weights[stage + "interaction.update.weights.weight"][0] // (2 * width),
        class_layers=weights.count(stage + "class_tower.") // 2,  # a linear layer and its norm
        box_layers=weights.count(stage + "box_tower.") // 2,
    )


def adamixer(weights: Shapes, metadata: Metadata, backbone: BackboneConfig) -> AdaMixerConfig:
    """Infer an AdaMixer; its groups G follow from the G (F / G)^2 + G P_in P_out rows of mixing weights."""
    stage = "decoder.stages.0."
    queries, width = weights["decoder.content.weight"]
    feature_width = weights["neck.lateral.0.weight"][0]
    sampled = weights[stage + "sampling.offsets.weight"][0] // 3  # G x P_in
    points_out = weights[stage + "mixing.out.weight"][1] // feature_width
    groups = feature_width**2 // (weights[stage + "mixing.weights.weight"][0] - sampled * points_out)
    return AdaMixerConfig(
        backbone=backbone,
        queries=queries,
        stages=weights.count("decoder.stages."),
        width=width,
        feature_width=feature_width,
        heads=weights[stage + "attention.overlap_scale"][0],
        groups=groups,
        points_in=sampled // groups,
        points_out=points_out,
        ffn=weights[stage + "ffn.expand.weight"][0],
        class_layers=weights.count(stage + "class_tower.") // 2,  # a linear layer and its norm
        box_layers=weights.count(stage + "box_tower.") // 2,
    )


def _sampling(weights: Shapes, heads: int) -> dict[str, Any]:
    """Infer the levels and points of deformable attention."""
    levels = weights["encoder.level_embedding.weight"][0]
    per_point = 2 * heads * levels  # numbers, for an offset along each axis
    encoder = weights["encoder.layers.0.attention.update.attention.sampling_offsets.weight"]
    decoder = weights["decoder.layers.0.cross_attention.update.attention.sampling_offsets.weight"]
    return {
        "levels": levels,
        "encoder_points": encoder[0] // per_point,
        "decoder_points": decoder[0] // per_point,
    }


def _transformer(weights: Shapes, metadata: Metadata) -> dict[str, Any]:
    """Infer what DETR and its descendants share."""
    ffn, width = weights["decoder.layers.0.ffn.update.expand.weight"]
    return {
        "width": width,
        "heads": metadata.heads or _HEADS,
        "encoder_layers": weights.count("encoder.layers."),
        "decoder_layers": weights.count("decoder.layers."),
        "ffn": ffn,
    }
