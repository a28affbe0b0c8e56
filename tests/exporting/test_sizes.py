"""The sizes and masks that graphs compute, against the functions that training and evaluation use."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

from qdet.data.augment import AugmentConfig
from qdet.data.image.pipelines import Pipeline
from qdet.data.image.resize import resize as resize_bytes
from qdet.data.plan.views import evaluation_views
from qdet.exporting.graphs import resize
from qdet.exporting.sizes import evaluation_size, padded_size
from qdet.layers.padding import padding_mask, resample_mask
from qdet.types import PaddedSizes
from tests.support.loaded_models import photo

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize("pipeline", get_args(Pipeline))
@given(SIDES, SIDES, st.integers(1, 900), st.integers(0, 900))
@example(168, 322, 174, 160)
def test_images_get_the_size_of_evaluation(pipeline, height, width, short, more):
    augment = AugmentConfig(pipeline=pipeline, sizes=(short,), max_size=short + more)
    wanted = evaluation_views(np.array([[height, width]]), augment).final_hw[0]
    assert evaluation_size(torch.tensor([height, width]), augment).tolist() == wanted.tolist()


@given(SIDES, st.integers(1, 64), st.integers(1, 100))
def test_padding_is_the_least_multiple_that_is_large_enough(side, multiple, least):
    padded, _ = padded_size(torch.tensor([side, 1]), multiple, least).tolist()
    assert padded == max(-(-side // multiple) * multiple, least)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 700), st.sampled_from([4, 8, 16, 32, 64]))
def test_masks_are_those_of_nearest_neighbour_interpolation(padded, other, inside, stride):
    size = torch.tensor([[min(inside, padded), min(inside, other)]])
    shape = (-(-padded // stride), -(-other // stride))
    mask = padding_mask(PaddedSizes(size, (padded, other)), *shape)
    rows, columns = torch.arange(padded) >= size[:, :1], torch.arange(other) >= size[:, 1:]
    pixels = (rows.unsqueeze(2) | columns.unsqueeze(1)).float().unsqueeze(1)
    assert torch.equal(mask, F.interpolate(pixels, size=shape).squeeze(1).bool())


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_a_mask_is_resampled_as_interpolation_does_it(height, width, rows, columns, seed):
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    wanted = F.interpolate(mask.float().unsqueeze(1), size=(rows, columns)).squeeze(1).bool()
    assert torch.equal(resample_mask(mask, rows, columns), wanted)


@pytest.mark.parametrize("filter_", ["pillow", "pillow-exact", "opencv"])
@pytest.mark.parametrize("size_hw", [(150, 100), (97, 140), (61, 333), (600, 500)])
def test_resizing_in_a_graph_is_that_of_evaluation_before_it_rounds_to_bytes(filter_, size_hw):
    image = np.array(photo())
    wanted = torch.from_numpy(resize_bytes(image, size_hw, filter_)).permute(2, 0, 1).float()
    planes = torch.from_numpy(image).permute(2, 0, 1).float().unsqueeze(0)
    difference = (resize(planes, size_hw, antialias=filter_ != "opencv")[0] - wanted).abs()
    assert difference.max() < 1.1
    assert difference.mean() < 0.5
