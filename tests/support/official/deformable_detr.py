"""Deformable DETR's recordings: plain, on a single scale, with refinement, in two stages."""

import torch

from qdet.convert import DEFORMABLE_DETR, DEFORMABLE_DETR_REFINE
from qdet.detectors import DeformableDETR, DeformableDETRConfig
from qdet.layers.attention.deformable import joint_softmax, sampling_locations
from qdet.losses import FOCAL_DETR_LOSS as LOSS
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> DeformableDETR:
    config = DeformableDETRConfig(
        queries=c["num_queries"],
        refine=c["with_box_refine"],
        two_stage=c["two_stage"],
        levels=c["num_feature_levels"],
        width=c["hidden_dim"],
        heads=c["nheads"],
        encoder_layers=c["enc_layers"],
        encoder_points=c["enc_n_points"],
        decoder_layers=c["dec_layers"],
        decoder_points=c["dec_n_points"],
        ffn=c["dim_feedforward"],
        dropout=c["dropout"],
    )
    return DeformableDETR(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


class Attended:
    """What one deformable attention was asked, and where it looked."""

    def __init__(self, update) -> None:
        self.out = hooked(update)
        self.attention = update.attention
        self.offsets = hooked(self.attention.sampling_offsets)
        self.weights = hooked(self.attention.attention_weights)
        self.asked = []
        self.attention.register_forward_pre_hook(lambda _, args: self.asked.append(args))

    def numbers(self, name: str) -> dict:
        shape = (self.attention.heads, self.attention.levels, self.attention.points)
        _, reference, _, levels = self.asked[0]
        offsets = self.offsets[0].unflatten(-1, (*shape, 2))
        return {
            f"{name}/sampling_locations": sampling_locations(reference, offsets, levels),
            f"{name}/attention_weights": joint_softmax(self.weights[0].unflatten(-1, shape)),
        }


def watch(detector: DeformableDETR, r):
    projected = [hooked(level) for level in detector.neck.levels]
    memory, encoded = hooked(detector.encoder), [hooked(layer) for layer in detector.encoder.layers]
    decoded = [hooked(layer) for layer in detector.decoder.layers]
    looked = [Attended(layer.attention.update) for layer in detector.encoder.layers]
    crossed = [Attended(layer.cross_attention.update) for layer in detector.decoder.layers]
    predicted, positions = hooked(detector.decoder), []
    detector.encoder.layers[0].register_forward_pre_hook(lambda _, args: positions.append(args[1:]))

    def numbers():
        position, _, levels = positions[0]
        embedding = detector.encoder.level_embedding.weight
        references = [attention.asked[0][1] for attention in crossed]
        refined = [boxes for _, boxes in predicted[0]] if detector.config.refine else references
        found = {
            "encoder/memory": memory[0],
            "init_reference": references[0],
            "inter_references": torch.stack(refined),
        }
        maps = zip(projected, levels.split(position), levels.split(levels.mask), embedding, strict=True)
        for i, (x, place, mask, name) in enumerate(maps):
            found[f"input_proj/level{i}"] = x[0]
            found[f"pos_embed/level{i}"] = (place - name).permute(0, 3, 1, 2)
            found[f"mask/level{i}"] = mask
        for i, (out, attention) in enumerate(zip(encoded, looked, strict=True)):
            found[f"encoder/layer{i}/output"] = out[0]
            found |= attention.numbers(f"encoder/layer{i}/self_attn")
        for i, (out, attention) in enumerate(zip(decoded, crossed, strict=True)):
            found[f"layer{i}/decoder_output_prenorm"] = out[0]
            found[f"layer{i}/cross_attn_output"] = attention.out[0]
            found |= attention.numbers(f"layer{i}/cross_attn")
        return found

    return numbers


def official(table) -> Official:
    return Official(build=build, table=table, loss=LOSS, watch=watch)


OFFICIAL = {
    "deformable_detr": official(DEFORMABLE_DETR),
    "deformable_detr_single_scale": official(DEFORMABLE_DETR),
    "deformable_detr_refine": official(DEFORMABLE_DETR_REFINE),
    "deformable_detr_two_stage": official(DEFORMABLE_DETR_REFINE),
}
