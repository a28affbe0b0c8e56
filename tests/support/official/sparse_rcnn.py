"""Sparse R-CNN's recordings."""

from functools import partial

from qdet.convert import SPARSE_RCNN as TABLE
from qdet.detectors import SparseRCNN, SparseRCNNConfig
from qdet.layers.regions.roi_align import Pyramid, roi_align
from qdet.losses import SPARSE_RCNN_LOSS as LOSS
from tests.support.recordings import Features, Official, hooked


def build(c: dict) -> SparseRCNN:
    config = SparseRCNNConfig(
        queries=c["NUM_PROPOSALS"],
        stages=c["NUM_HEADS"],
        width=c["HIDDEN_DIM"],
        heads=c["NHEADS"],
        ffn=c["DIM_FEEDFORWARD"],
        dropout=c["DROPOUT"],
        roi_size=c["POOLER_RESOLUTION"],
        filters=c["DIM_DYNAMIC"],
        class_layers=c["NUM_CLS"],
        box_layers=c["NUM_REG"],
    )
    return SparseRCNN(config, Features(c["in_channels"], c["strides"]), c["NUM_CLASSES"])


def watch(detector: SparseRCNN, r):
    levels, stages = hooked(detector.neck), detector.decoder.stages
    names = {
        "self_attn_output": [hooked(s.attention.update) for s in stages],
        "dynamic_params": [hooked(s.interaction.update.weights) for s in stages],
        "dynamic_conv_output": [hooked(s.interaction.update) for s in stages],
        "bboxes_delta": [hooked(s.box_head) for s in stages],
        "proposal_features_out": [hooked(s.ffn) for s in stages],
    }
    boxes, regions = [], []
    for s in stages:
        s.register_forward_pre_hook(lambda _, args: boxes.append(args[1]))
        s.interaction.register_forward_pre_hook(lambda _, args: regions.append(args[1]))

    def numbers():
        # The coarsest level of detectron2's pyramid, every second cell of p5, is not read by any stage.
        found = {f"fpn/p{j}": level for j, level in enumerate(levels[0], start=2)}
        for i in range(len(stages)):
            x = {name: out[i][0] for name, out in names.items()}
            found[f"layer{i}/boxes_in"] = boxes[i]
            found[f"layer{i}/self_attn_output"] = x["self_attn_output"].transpose(0, 1)
            found[f"layer{i}/roi_features"] = regions[i].flatten(0, 1).transpose(0, 1)
            for name in ("dynamic_params", "proposal_features_out"):
                found[f"layer{i}/{name}"] = x[name].flatten(0, 1).unsqueeze(0)
            for name in ("dynamic_conv_output", "bboxes_delta"):
                found[f"layer{i}/{name}"] = x[name].flatten(0, 1)
        return found

    return numbers


def prepare(detector: SparseRCNN, r) -> None:
    """Read regions as the recorded ones were.

    The authors' compiled kernel reads zero outside the maps and gives boxes no gradient. Numbers recorded
    without it may be of torchvision's version in Python: what comes closer to the first regions is taken.
    """
    names = [f"intermediates/fpn/p{j}" for j in range(2, 6)]
    pyramid = Pyramid.of([r[name] for name in names], r.config["strides"])
    boxes = r["intermediates/layer0/boxes_in"]
    want = r["intermediates/layer0/roi_features"].transpose(0, 1).unflatten(0, boxes.shape[:2])
    compiled = partial(roi_align, size=r.config["POOLER_RESOLUTION"])
    python = partial(compiled, outside="border", box_gradient=True)
    nearest = min((compiled, python), key=lambda read: (read(pyramid, boxes) - want).abs().max())
    for stage in detector.decoder.stages:
        stage.read_regions = nearest


OFFICIAL = {
    "Sparse R-CNN (head + FPN; detectron2 0.3 in the same repo)": Official(
        build=build, table=TABLE, loss=LOSS, watch=watch, unwatched=("p6",), prepare=prepare
    )
}
