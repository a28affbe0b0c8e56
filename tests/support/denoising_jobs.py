"""Jobs with extra queries in training, noised or learned, that make a step in a blink."""

from dataclasses import replace
from typing import Any

from qdet.backbones import SwinConfig
from qdet.data.denoising.config import DenoisingConfig
from qdet.detectors import (
    AdaMixerConfig,
    ConditionalDETRConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DetectorConfig,
    DINOConfig,
    SparseRCNNConfig,
)
from qdet.job import Job
from qdet.layers.one_to_many.config import OneToManyConfig
from qdet.losses import DINO_LOSS
from tests.support.ranks import tiny_job

NOISE = DenoisingConfig(kind="contrastive", queries=12)
PLAIN = replace(NOISE, kind="plain", groups=3)
BACKBONE = replace(SwinConfig().demo(), drop_path=0.0, weights=None, outputs=3)
SMALL: dict[str, Any] = {
    "backbone": BACKBONE,
    "width": 64,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "ffn": 32,
    "dropout": 0.0,
    "detections": 10,
}
REGIONS: dict[str, Any] = {
    "backbone": replace(BACKBONE, outputs=4),
    "queries": 10,
    "stages": 2,
    "width": 32,
    "heads": 2,
    "ffn": 32,
    "start": "grid",
}
DETECTORS: dict[str, DetectorConfig] = {
    "dino": DINOConfig(**SMALL, queries=10, denoising=NOISE),
    "dn_detr": DABDETRConfig(**SMALL, anchors=10, denoising=PLAIN),
    "adamixer": AdaMixerConfig(
        **REGIONS, feature_width=32, groups=2, points_in=4, points_out=4, denoising=NOISE
    ),
    "sparse_rcnn": SparseRCNNConfig(**REGIONS, filters=8, roi_size=3, denoising=PLAIN),
}
"""Detectors trained with denoising."""
BRANCHED: dict[str, DetectorConfig] = {
    "h_detr": DeformableDETRConfig(
        **SMALL,
        queries=10,
        refine=True,
        two_stage=True,
        content="learned",
        look_forward="twice",
        one_to_many=OneToManyConfig(kind="hybrid", queries=20, repeats=3),
    ),
    "group_detr": ConditionalDETRConfig(
        **SMALL, queries=10, one_to_many=OneToManyConfig(kind="groups", groups=3)
    ),
}
"""Detectors trained with further learned queries: H-DETR's two stages, and Group DETR."""


def job_of(shards, name: str = "dino", **changes) -> Job:
    """A job that makes a step in a blink."""
    return tiny_job(shards, detector=(DETECTORS | BRANCHED)[name], loss=DINO_LOSS, **changes)
