"""Dynamic ReLU and squeeze and excitation: against loops over images and channels."""

import torch
from torch.testing import assert_close

from qdet.detectors.dynamic_detr.dynamic_relu import DynamicReLU
from qdet.detectors.dynamic_detr.squeeze_excitation import SqueezeExcitation


def perceptron(layers, x: torch.Tensor) -> torch.Tensor:
    first, last = layers
    return last.weight @ (first.weight @ x + first.bias).clamp(min=0) + last.bias


def test_every_channel_is_the_larger_of_its_two_lines():
    torch.manual_seed(0)
    layer, x = DynamicReLU(8).double(), torch.randn(2, 8, 3, 5).double()
    found = layer(x)
    for image, y in zip(x, found, strict=True):
        raw = perceptron(layer.coefficients.layers, torch.stack([plane.mean() for plane in image]))
        theta = 2 * raw.sigmoid() - 1
        for c in range(8):
            slopes, intercepts = (1 + theta[c], theta[8 + c]), (theta[16 + c] / 2, theta[24 + c] / 2)
            lines = [a * image[c] + b for a, b in zip(slopes, intercepts, strict=True)]
            assert_close(y[c], torch.maximum(*lines))


def test_is_a_relu_where_nothing_is_predicted():
    layer, x = DynamicReLU(8), torch.randn(2, 8, 3, 5)
    torch.nn.init.zeros_(layer.coefficients.layers[-1].weight)
    torch.nn.init.zeros_(layer.coefficients.layers[-1].bias)
    assert_close(layer(x), x.relu())


def test_coefficients_stay_in_fp32_under_autocast():
    layer, x = DynamicReLU(8), torch.randn(2, 8, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    assert_close(found, layer(x), rtol=0, atol=0.02)


def test_squeeze_and_excitation_weighs_channels_by_the_whole_map():
    torch.manual_seed(0)
    layer, x = SqueezeExcitation(32).double(), 4 * torch.randn(2, 32, 3, 5).double()
    found = layer(x)
    for image, y in zip(x, found, strict=True):
        weight = perceptron(layer.gate.layers, torch.stack([plane.mean() for plane in image]))
        want = [w * plane for w, plane in zip((weight / 6 + 0.5).clamp(0, 1), image, strict=True)]
        assert_close(y, torch.stack(want))
