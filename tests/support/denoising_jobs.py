"""Jobs of DN-DETR and DINO that make a step in a blink."""

from dataclasses import replace

from qdet.backbones import SwinConfig
from qdet.data.denoising.config import DenoisingConfig
from qdet.detectors import DABDETRConfig, DetectorConfig, DINOConfig
from qdet.job import Job
from qdet.losses import DINO_LOSS
from tests.support.ranks import tiny_job

NOISE = DenoisingConfig(kind="contrastive", queries=12)
BACKBONE = replace(SwinConfig().demo(), drop_path=0.0, weights=None, outputs=3)
SMALL = {"backbone": BACKBONE, "width": 64, "heads": 2, "encoder_layers": 1, "ffn": 32, "dropout": 0.0}
DETECTORS: dict[str, DetectorConfig] = {
    "dino": DINOConfig(**SMALL, decoder_layers=2, queries=10, detections=10, denoising=NOISE),
    "dn_detr": DABDETRConfig(
        **SMALL,
        decoder_layers=2,
        anchors=10,
        detections=10,
        denoising=replace(NOISE, kind="plain", groups=3),
    ),
}


def job_of(shards, name: str = "dino", **changes) -> Job:
    """A job that makes a step in a blink."""
    return tiny_job(shards, detector=DETECTORS[name], loss=DINO_LOSS, **changes)
