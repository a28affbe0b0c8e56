"""DETR's recordings."""

import torch

from qdet.convert import DETR as TABLE
from qdet.detectors import DETR, DETRConfig
from qdet.losses import DETR_LOSS as LOSS
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> DETR:
    config = DETRConfig(
        queries=c["num_queries"],
        width=c["hidden_dim"],
        heads=c["nheads"],
        encoder_layers=c["enc_layers"],
        decoder_layers=c["dec_layers"],
        ffn=c["dim_feedforward"],
        dropout=c["dropout"],
        pre_norm=c["pre_norm"],
    )
    return DETR(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


def watch_encoder(detector):
    """Hook into what leads to the memory; the same in DETR's single-scale descendants."""
    projected, encoded = hooked(detector.projection), [hooked(layer) for layer in detector.encoder.layers]
    memories = hooked(detector.encoder)

    def numbers():
        (memory,), shape_hw = memories, projected[0].shape[-2:]
        found = {
            "input_proj/level0": projected[0],
            "pos_embed/level0": memory.position.mT.unflatten(-1, shape_hw),
            "mask/level0": memory.mask.unflatten(-1, shape_hw),
            "encoder/memory": memory.x.transpose(0, 1),
        }
        for i, out in enumerate(encoded):
            found[f"encoder/layer{i}/output"] = out[0].transpose(0, 1)
        return found

    return numbers


def watch_decoder(detector):
    """Hook into what every layer of a decoder of residual layers does."""
    layers = detector.decoder.layers
    normed, decoded = hooked(detector.decoder.norm), [hooked(layer) for layer in layers]
    crossed = [hooked(layer.cross_attention.update) for layer in layers]
    asked = [hooked(layer.self_attention.update) for layer in layers]
    positions = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, args: positions.append(args[1][0]))

    def numbers():
        found = {"hs": torch.stack(normed)}
        for i, out in enumerate(decoded):
            found[f"layer{i}/decoder_output_prenorm"] = out[0].transpose(0, 1)
            found[f"layer{i}/self_attn_output"] = asked[i][0].transpose(0, 1)
            found[f"layer{i}/cross_attn_output"] = crossed[i][0].transpose(0, 1)
            found[f"layer{i}/query_pos"] = positions[i].transpose(0, 1)
        return found

    return numbers


def watch(detector: DETR, r):
    of_encoder, of_decoder = watch_encoder(detector), watch_decoder(detector)
    return lambda: of_encoder() | of_decoder()


OFFICIAL = {
    name: Official(build=build, table=TABLE, loss=LOSS, watch=watch, unwatched=("cross_attn_weights_mean",))
    for name in ("detr", "detr_prenorm")
}
