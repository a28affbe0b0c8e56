"""Attention between levels, place by place and level by level."""

import torch

from qdet.detectors.anchor_detr.level_attention import LevelLayer, OverLevels
from qdet.layers.attention.multi_head import CrossAttention

DIM, LEVELS, CELLS, IMAGES = 8, 3, 5, 2


def test_a_cell_sees_its_place_on_every_level_of_its_image_alone():
    layer = LevelLayer(DIM, 16, heads=2).double()
    x, level = torch.randn(IMAGES * LEVELS, CELLS, DIM).double(), torch.randn(1, LEVELS, DIM).double()
    found = layer(x, level)
    for image in range(IMAGES):
        rows = slice(image * LEVELS, (image + 1) * LEVELS)
        for cell in range(CELLS):
            want = layer.layer(x[rows, cell].unsqueeze(0), level)[0]
            torch.testing.assert_close(found[rows, cell], want)


def test_queries_read_each_level_with_the_same_weights_and_join_what_they_found():
    cross = CrossAttention(DIM, heads=2)
    over = OverLevels(cross, DIM, LEVELS).double()
    x, place = torch.randn(IMAGES, 4, DIM).double(), torch.randn(1, 4, DIM).double()
    memory, key = torch.randn(2, IMAGES * LEVELS, CELLS, DIM).double()
    found = over(x, place, memory, key)
    for image in range(IMAGES):
        rows = range(image * LEVELS, (image + 1) * LEVELS)
        each = [cross(x[image : image + 1], place, memory[[i]], key[[i]]) for i in rows]
        feature_by_feature = torch.stack(each, dim=-1).flatten(-2)
        torch.testing.assert_close(found[image : image + 1], over.fuse(feature_by_feature))


def test_one_level_is_the_attention_itself():
    cross = CrossAttention(DIM, heads=2)
    over = OverLevels(cross, DIM, 1)
    x, place = torch.randn(IMAGES, 4, DIM), torch.randn(1, 4, DIM)
    memory, key = torch.randn(2, IMAGES, CELLS, DIM)
    assert over(x, place, memory, key).equal(cross(x, place, memory, key))
    assert len(list(over.parameters())) == len(list(cross.parameters()))
