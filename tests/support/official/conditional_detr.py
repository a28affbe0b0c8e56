"""Conditional DETR's recordings."""

from qdet.convert import CONDITIONAL_DETR as TABLE
from qdet.detectors import ConditionalDETR, ConditionalDETRConfig
from qdet.losses import FOCAL_DETR_LOSS as LOSS
from tests.support.official.detr import watch_decoder, watch_encoder
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> ConditionalDETR:
    config = ConditionalDETRConfig(
        queries=c["num_queries"],
        width=c["hidden_dim"],
        heads=c["nheads"],
        encoder_layers=c["enc_layers"],
        decoder_layers=c["dec_layers"],
        ffn=c["dim_feedforward"],
        dropout=c["dropout"],
    )
    return ConditionalDETR(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


def watch_places(detector):
    """Hook into the embedded places that every layer's queries attend to."""
    places = []
    for layer in detector.decoder.layers:
        layer.cross_attention.update.register_forward_pre_hook(lambda _, args: places.append(args[2]))
    return lambda: {f"layer{i}/query_sine_embed": place.transpose(0, 1) for i, place in enumerate(places)}


def watch(detector: ConditionalDETR, r):
    parts = watch_encoder(detector), watch_decoder(detector), watch_places(detector)
    decoded = hooked(detector.decoder)

    def numbers():
        of_encoder, of_decoder, of_places = (part() for part in parts)
        return {**of_encoder, **of_decoder, **of_places, "reference_points": decoded[0][1]}

    return numbers


OFFICIAL = {
    "conditional_detr": Official(
        build=build,
        table=TABLE,
        loss=LOSS,
        watch=watch,
        unwatched=("cross_attn_weights_mean",),  # attention never holds its weights
    )
}
