"""DAB-DETR's recordings.

The authors' switch for fixed centres only draws them evenly and leaves them trained, so the recordings with
it are of a detector that learns its centres; `tests/layers/test_dab_detr.py` holds fixed ones to it.
"""

import torch

from qdet.convert import DAB_DETR as TABLE
from qdet.detectors import DABDETR, DABDETRConfig
from qdet.layers.reference_points import boxes_from
from qdet.losses import DAB_DETR_LOSS as LOSS
from tests.support.official.conditional_detr import watch_places
from tests.support.official.detr import watch_decoder, watch_encoder
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> DABDETR:
    config = DABDETRConfig(
        anchors=c["num_queries"],
        patterns=c["num_patterns"],
        width=c["hidden_dim"],
        heads=c["nheads"],
        encoder_layers=c["enc_layers"],
        decoder_layers=c["dec_layers"],
        ffn=c["dim_feedforward"],
        dropout=c["dropout"],
        map_temperatures_yx=(float(c["pe_temperatureH"]), float(c["pe_temperatureW"])),
        detections=c["num_select"],
    )
    return DABDETR(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


def watch(detector: DABDETR, r):
    parts = watch_encoder(detector), watch_decoder(detector), watch_places(detector)
    queries, deltas = hooked(detector.decoder.queries), hooked(detector.decoder.box_head)

    def numbers():
        references = [queries[0][1]]
        for delta in deltas[1::2]:  # between those of the predictions
            references.append(boxes_from(delta, references[-1], eps=1e-3))
        of_encoder, of_decoder, of_places = (part() for part in parts)
        return {**of_encoder, **of_decoder, **of_places, "reference_points": torch.stack(references)}

    return numbers


OFFICIAL = {
    name: Official(
        build=build,
        table=TABLE,
        loss=LOSS,
        watch=watch,
        unwatched=("cross_attn_weights_mean",),  # attention never holds its weights
    )
    for name in ("dab_detr", "dab_detr_patterns")
}
