"""Normalisation: ImageNet statistics inside an image, exactly zero outside."""

import torch
from torch.testing import assert_close

from qdet.layers.pixels import inside, normalize

SIZES = torch.tensor([[4, 6], [5, 3]])


def test_bytes_become_standard_scores():
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    got = normalize(images, SIZES)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for b, (h, w) in enumerate(SIZES.tolist()):
        for c in range(3):
            want = (images[b, c, :h, :w] / 255 - mean[c]) / std[c]
            assert_close(got[b, c, :h, :w], want, atol=1e-5, rtol=1e-5)
    assert not got[0, :, 4:].any()
    assert not got[1, :, :, 3:].any()


def test_floats_are_taken_as_normalised():
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    got = normalize(images, SIZES)
    assert got.dtype == torch.float64
    assert got[0, :, :4].equal(images[0, :, :4])
    assert not got[1, :, :, 3:].any()


def test_images_are_normalized_inside_and_zero_outside():
    mask = inside(SIZES, 5, 6)
    assert mask.sum((1, 2)).tolist() == [24, 15]
    assert mask[0, 3, 5]
    assert not mask[0, 4, 0]
