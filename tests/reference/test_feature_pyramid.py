"""The FPN against numbers recorded from detectron2's, which Sparse R-CNN's authors use."""

import pytest
import torch

from qdet.layers.conv.feature_pyramid import FPN
from tests.support.recordings import cases, read


@pytest.mark.parametrize("case", cases({"Sparse R-CNN (head + FPN; detectron2 0.3 in the same repo)"}))
def test_every_level_matches_the_recording(case):
    r = read(case)
    weights = r.weights()
    first = min(int(k[len("backbone.fpn_lateral")]) for k in weights if k.startswith("backbone.fpn_lateral"))
    pyramid = FPN(r.config["in_channels"], r.config["FPN_OUT_CHANNELS"], extra_levels=1).to(r.dtype)
    for part in ("lateral", "output"):
        for j, conv in enumerate(getattr(pyramid, part)):
            where = f"backbone.fpn_{part}{first + j}."
            conv.load_state_dict(
                {k.removeprefix(where): t for k, t in weights.items() if k.startswith(where)}
            )
    with torch.no_grad():
        got = pyramid(r.features())
    for j, level in enumerate(got, start=first):
        r.close(level, r[f"intermediates/fpn/p{j}"], f"intermediates/fpn/p{j}")
