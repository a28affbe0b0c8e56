"""Parameters and products counted, against sums by hand."""

import pytest
import torch
from torch import nn

from qdet.backbones import SwinConfig
from qdet.detectors.complexity import count_macs, count_parameters, count_saved_bytes
from tests.support import small_models


def test_products_and_convolutions_are_counted_by_hand():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1), nn.ReLU(), nn.Linear(5, 7))
    assert count_macs(module, torch.empty(2, 3, 6, 10)) == 2 * (8 * 3 * 5) * 27 + 2 * (8 * 3) * 5 * 7


def test_counting_leaves_the_module_where_it_was():
    module = nn.Linear(3, 4)
    count_macs(module, torch.empty(1, 3))
    assert all(p.device.type == "cpu" for p in module.parameters())


def test_shared_parameters_count_once_and_frozen_ones_on_demand():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    assert count_parameters(module) == 9 + 3 + 3
    assert count_parameters(module, trainable=True) == 9 + 3


def test_saved_bytes_are_counted_by_hand():
    module = nn.Sequential(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 3))
    # The first product keeps its input, which is given; the sigmoid its output, which the second also keeps.
    assert count_saved_bytes(module, torch.empty(4, 5)) == 4 * 7 * 4


@pytest.mark.parametrize("bf16", [False, True])
def test_saved_bytes_are_those_of_a_pass_with_numbers(bf16: bool):
    images, sizes = torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96], [60, 80]])
    detector, kept = small_models.build().train(), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", enabled=bf16),
    ):
        out = detector(images, sizes)
    own = (*detector.parameters(), *detector.buffers(), images, sizes)
    given = {tensor.untyped_storage().data_ptr() for tensor in own}
    held = sum(size for place, (_, size) in kept.items() if place not in given)
    assert out is not None
    assert count_saved_bytes(small_models.build(), images, sizes, bf16=bf16) == pytest.approx(
        held, rel=0.03
    )  # masks of windows are cached there


def test_counting_leaves_no_tensors_without_numbers_behind():
    swin = SwinConfig(size="demo", weights=None)
    count_saved_bytes(swin.build(), torch.empty(1, 3, 64, 64))
    maps = swin.build()(torch.ones(1, 3, 64, 64))
    assert all(torch.isfinite(one).all() for one in maps)
    assert all(one.numpy(force=True).size for one in maps)
