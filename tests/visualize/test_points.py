"""Recorded points are where the layers read: by the papers' formulas, and on maps that hold coordinates.

G groups   P points   L levels   M heads   K points of a head and level
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from qdet.detectors.adamixer import xyzr
from qdet.detectors.adamixer.sampling_3d import AdaptiveSampling
from qdet.layers.attention.deformable import DeformableCrossAttention
from qdet.layers.token_levels import flatten_maps, token_levels
from qdet.types import PaddedSizes
from qdet.visualize.looking.frame import Frame
from qdet.visualize.looking.look import look
from qdet.visualize.looking.points import points_of, watch_points
from qdet.visualize.looking.recording import recording
from tests.support.detector_variants import CLASSES, SIZES, VARIANTS, images, shaken

ORIGINAL = torch.tensor([[256, 192], [50, 64]])
STRIDES = (4, 8, 16, 32)


def inputs_of(module: nn.Module) -> list[tuple]:
    calls: list[tuple] = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    return calls


def test_adamixers_points_are_those_of_the_papers_formula():
    """x + dx 2^(z - r), y + dy 2^(z + r), z + dz (section 3.2), with the r of the authors' code: half."""
    detector = shaken(VARIANTS["adamixer_r101"][0].build(CLASSES)).eval()
    calls = [inputs_of(stage.sampling) for stage in detector.decoder.stages]
    looks = look(detector, images(), SIZES, ORIGINAL, what="points")
    groups, points = detector.config.groups, detector.config.points_in
    for stage, (call,) in enumerate(calls):
        query, boxes, _ = call
        generated = detector.decoder.stages[stage].sampling.offsets(query).detach().tolist()
        for image, (height, width) in enumerate(SIZES.tolist()):
            seen = looks[image].seen[stage]
            original_height, original_width = ORIGINAL[image].tolist()
            factor_x, factor_y = original_width / width, original_height / height
            for n in range(0, detector.config.queries, 7):
                x, y, z, r = boxes.xyzr[image, n].tolist()
                for place in range(groups * points):
                    dx, dy, dz = generated[image][n][3 * place : 3 * place + 3]
                    literal = ((x + dx * 2 ** (z - r / 2)) * factor_x, (y + dy * 2 ** (z + r / 2)) * factor_y)
                    assert seen.xy[n, place] == pytest.approx(literal, rel=1e-4, abs=1e-3)
                    shares = [math.exp(-((z + dz - math.log2(s)) ** 2) / 2) for s in STRIDES]
                    shares = [share / sum(shares) for share in shares]
                    assert seen.level_weights[n, place] == pytest.approx(shares, abs=1e-5)


def coordinate_maps(height: int, width: int, strides) -> list[torch.Tensor]:
    """Maps of two channels: x and y in pixels of each cell's centre."""
    maps = []
    for stride in strides:
        y = (torch.arange(height // stride) + 0.5) * stride
        x = (torch.arange(width // stride) + 0.5) * stride
        maps.append(torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]))[None].double())
    return maps


def test_adamixer_reads_its_maps_at_the_recorded_points():
    sampling = AdaptiveSampling(8, STRIDES, groups=1, points=9).double()
    placed = xyzr.place(torch.tensor([[[120.0, 130.0, 5.0, 0.4], [140.0, 100.0, 4.0, -0.5]]]).double())
    nn.init.normal_(sampling.offsets.weight, std=0.05)
    read_xy = sampling(query := torch.randn(1, 2, 8).double(), placed, coordinate_maps(256, 256, STRIDES))
    (watch,) = watch_points(nn.ModuleList([sampling]))
    with recording([watch]) as captured:
        sampling(query, placed, coordinate_maps(256, 256, STRIDES))
    (seen,) = points_of(captured, Frame(0, (256, 256), (256, 256), (256, 256)))
    inside = ((seen.xy > 16) & (seen.xy < 240)).all(-1)  # nearer to the border, coarse maps read zeros
    assert inside.sum() >= 15
    assert seen.xy[inside] == pytest.approx(read_xy[0, :, 0].detach().numpy()[inside], abs=1e-6)


@pytest.mark.parametrize("reference_size", [2, 4])
def test_deformable_attention_reads_its_maps_at_the_recorded_points(reference_size):
    """With coordinates as values, the output of a head is the mean of its points by weight."""
    heads, levels, points, height, width = 2, 3, 4, 256, 192
    cross = DeformableCrossAttention(4, heads=heads, levels=levels, points=points).double()
    attention = cross.attention
    for linear in (attention.value, attention.out):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.normal_(attention.attention_weights.weight)
    nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
    attention.sampling_offsets.bias.data *= 0.2
    maps = [m.repeat(1, heads, 1, 1) for m in coordinate_maps(256, 256, STRIDES[:levels])]  # x, y per head
    token = token_levels(maps, PaddedSizes(torch.tensor([[height, width]]), (256, 256)))
    reference = torch.tensor([[[0.5, 0.4, 0.2, 0.3], [0.4, 0.6, 0.1, 0.2]]]).double()[..., :reference_size]
    x = torch.randn(1, 2, 4).double()
    (watch,) = watch_points(nn.ModuleList([cross]))
    with recording([watch]) as captured:
        read = cross(x, torch.zeros_like(x), reference, flatten_maps(maps), token)
    frame = Frame(0, (height, width), (2 * height, 3 * width), (256, 256))
    (seen,) = points_of(captured, frame)
    assert seen.strides == STRIDES[:levels]
    assert seen.weights.sum(1) == pytest.approx(1)
    by_head = (seen.xy * heads * seen.weights[..., None]).reshape(2, heads, -1, 2).sum(2)
    expected = read[0].detach().numpy().reshape(2, heads, 2) * np.array((3, 2))
    assert by_head == pytest.approx(expected, abs=1e-6)
    center = (reference[0, :, :2] * torch.tensor((3.0 * width, 2.0 * height))).numpy()
    assert (seen.around_xyxy[:, :2] + seen.around_xyxy[:, 2:]) / 2 == pytest.approx(center)
    assert seen.around_points == (reference_size == 2)


def test_level_weights_name_the_level_of_every_deformable_point():
    name = next(n for n in VARIANTS if n.startswith("deformable") and "single" not in n)
    detector = shaken(VARIANTS[name][0].build(CLASSES)).eval()
    seen = look(detector, images(), SIZES, ORIGINAL)[0].seen[0]
    config = detector.config
    order = np.arange(config.heads * config.levels * config.decoder_points)
    level = order // config.decoder_points % config.levels
    assert (seen.level_weights[:, order, level] == 1).all()
    assert seen.level_weights.sum(-1) == pytest.approx(1)
    assert (2**seen.log2_stride == np.array(seen.strides)[level]).all()
