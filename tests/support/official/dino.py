"""DINO's recordings: as released, and with its additions the other way."""

import torch

from qdet.convert import DINO as SHARED_HEADS
from qdet.convert import DINO_SEPARATE_HEADS
from qdet.detectors import DINO, DINOConfig
from qdet.layers.reference_points import boxes_from, inverse_sigmoid
from qdet.layers.transformer.token_proposals import best_tokens, grid_anchors, settle, take
from qdet.losses import DINO_LOSS as LOSS
from tests.support.official.deformable_detr import Attended
from tests.support.recorded_noise import denoised, denoising_of
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> DINO:
    config = DINOConfig(
        queries=c["num_queries"],
        levels=c["num_feature_levels"],
        width=c["hidden_dim"],
        heads=c["nheads"],
        encoder_layers=c["enc_layers"],
        encoder_points=c["enc_n_points"],
        decoder_layers=c["dec_layers"],
        decoder_points=c["dec_n_points"],
        ffn=c["dim_feedforward"],
        dropout=c["dropout"],
        detections=c["num_select"],
        content="learned" if c["embed_init_tgt"] else "token",
        look_forward="once" if c["use_detached_boxes_dec_out"] else "twice",
        shared_heads=c["dec_pred_class_embed_share"],
        map_temperatures_yx=(float(c["pe_temperatureH"]), float(c["pe_temperatureW"])),
        denoising=denoising_of(c),
    )
    return DINO(config, Features(c["in_channels"], c["strides"]), c["num_classes"])


def watch(detector: DINO, r):
    of_encoder, of_layers, of_selection = (
        watch_tokens(detector),
        watch_layers(detector),
        watch_choice(detector),
    )
    return lambda: of_encoder() | of_layers() | of_selection()


def watch_tokens(detector: DINO):
    """Hook into neck and encoder."""
    projected = [hooked(level) for level in detector.neck.levels]
    memory, encoded = hooked(detector.encoder), [hooked(layer) for layer in detector.encoder.layers]
    looked, positions = [Attended(layer.attention.update) for layer in detector.encoder.layers], []
    detector.encoder.layers[0].register_forward_pre_hook(lambda _, args: positions.append(args[1:]))

    def numbers():
        position, _, levels = positions[0]
        found = {"encoder/memory": memory[0]}
        embedding = detector.encoder.level_embedding.weight
        maps = zip(projected, levels.split(position), levels.split(levels.mask), embedding, strict=True)
        for i, (x, place, mask, name) in enumerate(maps):
            found[f"input_proj/level{i}"] = x[0]
            found[f"pos_embed/level{i}"] = (place - name).permute(0, 3, 1, 2)
            found[f"mask/level{i}"] = mask
        for i, (out, attention) in enumerate(zip(encoded, looked, strict=True)):
            found[f"encoder/layer{i}/output"] = out[0]
            found |= attention.numbers(f"encoder/layer{i}/self_attn")
        return found

    return numbers


def watch_layers(detector: DINO):
    """Hook into the decoder."""
    layers, embedded = detector.decoder.layers, []
    decoded, normed = [hooked(layer) for layer in layers], hooked(detector.decoder.norm)
    crossed = [Attended(layer.cross_attention.update) for layer in layers]
    asked = [hooked(layer.self_attention.update) for layer in layers]
    positions = hooked(detector.decoder.position_head)
    detector.decoder.position_head.register_forward_pre_hook(lambda _, args: embedded.append(args[0]))

    def numbers():
        references = [attention.asked[0][1] for attention in crossed]
        last = detector.decoder.heads[-1].box_head(decoded[-1][0])
        references.append(boxes_from(last, references[-1], eps=1e-3))
        found = {"hs": torch.stack(normed), "reference_points": torch.stack(references)}
        for i, (out, attention) in enumerate(zip(decoded, crossed, strict=True)):
            found[f"layer{i}/decoder_output_prenorm"] = out[0]
            found[f"layer{i}/self_attn_output"] = asked[i][0]
            found[f"layer{i}/cross_attn_output"] = attention.out[0]
            found[f"layer{i}/query_pos"] = positions[i]
            found[f"layer{i}/query_sine_embed"] = embedded[i]
            found |= attention.numbers(f"layer{i}/cross_attn")
        return found

    return numbers


def watch_choice(detector: DINO):
    """Hook into the selection of tokens."""
    normed, predicted = hooked(detector.selection.norm), hooked(detector.selection.head)
    deltas, levels = hooked(detector.selection.head.box_head), []
    detector.selection.register_forward_pre_hook(lambda _, args: levels.append(args[1]))

    def numbers():
        logits, _ = predicted[0]
        anchors, usable = grid_anchors(levels[0])
        best = best_tokens(logits.amax(-1), detector.config.queries)
        before = (deltas[0] + inverse_sigmoid(anchors)).masked_fill(~usable.unsqueeze(-1), torch.inf)
        return {
            "output_memory": normed[0],
            "proposals_usable": usable,
            "topk_indices": best,
            "init_box_proposal": take(settle(anchors, usable), best),
            "enc/logits": logits,
            "enc/boxes_unsigmoid": before,
            "enc/boxes": before.sigmoid(),
        }

    return numbers


def official(table) -> Official:
    return Official(build=build, table=table, loss=LOSS, watch=watch, denoise=denoised)


OFFICIAL = {"dino": official(SHARED_HEADS), "dino_ablated": official(DINO_SEPARATE_HEADS)}
