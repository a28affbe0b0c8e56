"""Anchor DETR's recordings, with row-column attention and with plain attention."""

import math

from qdet.convert import ANCHOR_DETR, ANCHOR_DETR_ATTENTION
from qdet.detectors import AnchorDETR, AnchorDETRConfig
from qdet.losses import FOCAL_DETR_LOSS
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> AnchorDETR:
    grid, points = c["spatial_prior"] == "grid", c["num_query_position"]
    config = AnchorDETRConfig(
        points=round(math.sqrt(points)) ** 2 if grid else points,  # the nearest square number
        patterns=c["num_query_pattern"],
        anchors="grid" if grid else "learned",
        attention="row_column" if c["attention_type"] == "RCDA" else "plain",
        levels=c["num_feature_levels"],
        width=c["hidden_dim"],
        heads=c["nheads"],
        encoder_layers=c["enc_layers"],
        decoder_layers=c["dec_layers"],
        ffn=c["dim_feedforward"],
        dropout=c["dropout"],
    )
    return AnchorDETR(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


def watch(detector: AnchorDETR, r):
    projected, decoded = (
        [hooked(part) for part in parts] for parts in (detector.neck, detector.decoder.layers)
    )
    encoded = [hooked(layer) for layer in detector.encoder.layers]
    crossed = [hooked(layer.cross_attention.update.attention) for layer in detector.decoder.layers]

    def numbers():
        found = {f"input_proj/level{i}": out[0] for i, out in enumerate(projected)}
        size = projected[-1][0].shape[-2:]
        for i, out in enumerate(encoded):
            found[f"encoder/layer{i}/output"] = out[0].mT.unflatten(-1, size)
        for i, out in enumerate(decoded):
            found[f"layer{i}/decoder_output_prenorm"] = out[0]
            found[f"layer{i}/cross_attn_output"] = crossed[i][0].transpose(0, 1)
        return found

    return numbers


OFFICIAL = {
    name: Official(
        build=build, table=table, loss=FOCAL_DETR_LOSS, watch=watch, unwatched=("cross_attn_weights_mean",)
    )  # neither attention ever holds a weight per query and cell
    for name, table in (("anchor_detr", ANCHOR_DETR), ("anchor_detr_mha", ANCHOR_DETR_ATTENTION))
}
