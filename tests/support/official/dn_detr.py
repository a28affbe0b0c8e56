"""DN-DETR's recordings: DAB-DETR, trained with denoising."""

from dataclasses import replace

from qdet.convert import DAB_DETR as TABLE
from qdet.detectors import DABDETR
from qdet.losses import DAB_DETR_LOSS as LOSS
from tests.support.official import dab_detr
from tests.support.recorded_noise import denoised, denoising_of
from tests.support.recordings import Features, Official


def build(c: dict) -> DABDETR:
    config = replace(dab_detr.build(c).config, denoising=denoising_of(c))
    return DABDETR(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


OFFICIAL = {
    name: Official(
        build=build,
        table=TABLE,
        loss=LOSS,
        watch=dab_detr.watch,
        denoise=denoised,
        unwatched=("cross_attn_weights_mean",),
    )
    for name in ("dn_detr", "dn_detr_patterns")
}
