"""SMCA-DETR's recordings: the single-scale model's, and the convolutional multi-scale one's."""

import torch

from qdet.convert import CONV_SMCA
from qdet.convert import SMCA as TABLE
from qdet.detectors import SMCA, ConvSMCA, ConvSMCAConfig, SMCAConfig
from qdet.layers.padding import padding_mask
from qdet.layers.position import sine_map
from qdet.losses import FOCAL_DETR_LOSS
from tests.support.official.detr import watch_decoder, watch_encoder
from tests.support.recordings import Features, Official, hooked

SHARPNESS = {"type1": "fixed", "type2": "one", "type3": "independent", "type4": "product"}


def common(c: dict) -> dict:
    return {
        "queries": c["num_queries"],
        "width": c["hidden_dim"],
        "heads": c["nheads"],
        "encoder_layers": c["enc_layers"],
        "decoder_layers": c["dec_layers"],
        "ffn": c["dim_feedforward"],
        "dropout": c["dropout"],
    }


def build(c: dict) -> SMCA:
    config = SMCAConfig(**common(c), sharpness=SHARPNESS[c["dynamic_scale"]])
    return SMCA(config, Features(c["in_channels"], c["strides"]), c["num_classes"] + 1)


def build_conv(c: dict) -> ConvSMCA:
    config = ConvSMCAConfig(**common(c))
    return ConvSMCA(config, Features(c["in_channels"], c["strides"]), c["num_classes"] + 1)


def watch_modulation(detector, *, cells: bool):
    """Hook into centres and maps; the centre that layers pass on is in cells of the map, once per head."""
    of_decoder, layers = watch_decoder(detector), detector.decoder.layers
    maps = [hooked(layer.prior) for layer in layers]
    centers, prior = hooked(detector.decoder.center_head), layers[0].prior
    given = []
    prior.register_forward_pre_hook(lambda _, args: given.append(args[1:3]))

    def numbers():
        found, (shares, sizes_hw) = of_decoder(), given[0]
        if cells:
            pixels = shares * sizes_hw.flip(-1).unsqueeze(1)
            passed = (pixels / prior.strides[0]).repeat(1, 1, prior.maps)
        else:
            passed = shares
        for i, of_layer in enumerate(maps):
            gaussian = torch.cat(of_layer[0], dim=-1)  # [B, M, N, K]
            found[f"layer{i}/gaussian_map"] = gaussian.flatten(0, 1).permute(1, 2, 0)
            found[f"layer{i}/point_ref_previous"] = passed.transpose(0, 1)
        found["points_unsigmoid"] = centers[0]
        return found

    return numbers


def watch(detector: SMCA, r):
    of_encoder, of_decoder = watch_encoder(detector), watch_modulation(detector, cells=True)
    return lambda: of_encoder() | of_decoder()


def watch_conv(detector: ConvSMCA, r):
    """The recorded memory is that of the finest scale."""
    of_decoder, neck = watch_modulation(detector, cells=False), detector.neck
    projected = [hooked(conv) for conv in (*neck.projections, neck.coarser)]
    encoded, tokens = [hooked(layer) for layer in detector.encoder], hooked(neck)

    def numbers():
        found = of_decoder()
        finest = tokens[0].shapes_hw[0]
        for width, maps in zip(("512", "1024", "2048", "2048_3"), projected, strict=True):
            found[f"input_proj_{width}"] = maps[0]
        for i, out in enumerate(encoded):
            last = tokens[0].split(out[0])[0].mT.unflatten(-1, finest)
            found[f"encoder/layer{i}/output"] = found["encoder/memory"] = last
        for i, feature in enumerate(r.features()):
            mask = padding_mask(r.sizes, *feature.shape[-2:])
            found[f"mask/level{i}"] = mask
            found[f"pos_embed/level{i}"] = sine_map(mask, detector.config.width).movedim(-1, 1)
        shares = found["layer1/point_ref_previous"].transpose(0, 1)
        later = [shares] * (len(detector.decoder.layers) - 1)  # theirs keeps the sigmoid of the first's
        found["points_unsigmoid"] = torch.stack([found["points_unsigmoid"], *later])
        return found

    return numbers


def prepare_conv(detector: ConvSMCA, r) -> None:
    """Let the first image choose the blend of scales for all, as theirs does; and keep as many detections."""
    detector.detections = len(r["outputs/detections/image0/scores"])
    for layer in detector.decoder.layers:
        layer.selection.register_forward_hook(lambda _, args, out: out[:1].expand_as(out))


UNWATCHED = ("cross_attn_weights_mean",)  # the weights of attention are never held

OFFICIAL = {
    name: Official(build=build, table=TABLE, loss=FOCAL_DETR_LOSS, watch=watch, unwatched=UNWATCHED)
    for name in ("smca_detr", "smca_detr_type1", "smca_detr_type2", "smca_detr_type4")
} | {
    "smca_detr_ms_new": Official(
        build=build_conv,
        table=CONV_SMCA,
        loss=FOCAL_DETR_LOSS,
        watch=watch_conv,
        unwatched=UNWATCHED,
        prepare=prepare_conv,
    )
}
