"""Parameters and products counted, against sums by hand."""

import torch
from torch import nn

from qdet.detectors.complexity import count_macs, count_parameters


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
