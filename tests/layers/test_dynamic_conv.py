"""Dynamic convolution: against loops over queries, cells and layers, one vector at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from qdet.layers.regions.dynamic_conv import DynamicConv


def slow(layer: DynamicConv, query: torch.Tensor, region: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """One query [D] and its region [P, D]."""
    written = layer.weights.weight @ query + layer.weights.bias
    cells = []
    for cell in region:
        start, x = 0, cell
        for norm, a, b in zip(layer.norms, widths[:-1], widths[1:], strict=True):
            matrix = written[start : start + a * b].view(a, b)
            x = torch.stack([(x * matrix[:, j]).sum() for j in range(b)])
            x = F.layer_norm(x, (b,), norm.weight, norm.bias).clamp(min=0)
            start += a * b
        cells.append(x)
    joined = layer.out.weight @ torch.cat(cells) + layer.out.bias
    return F.layer_norm(joined, query.shape, layer.out_norm.weight, layer.out_norm.bias).clamp(min=0)


@pytest.mark.parametrize(("layers", "widths"), [(2, [8, 3, 8]), (1, [8, 3])])
def test_every_query_filters_its_own_region(layers, widths):
    torch.manual_seed(0)
    layer = DynamicConv(8, cells=4, filters=3, layers=layers).double()
    for norm in (*layer.norms, layer.out_norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    query, regions = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 4, 8).double()
    found = layer(query, regions)
    for image in range(2):
        for n in range(5):
            want = slow(layer, query[image, n], regions[image, n], widths)
            assert_close(found[image, n], want, rtol=1e-9, atol=1e-9)


def test_it_has_the_papers_size():
    """The generator, the product that joins 49 cells, and three norms."""
    count = sum(p.numel() for p in DynamicConv(256, cells=49).parameters())
    assert count == 257 * 2 * 256 * 64 + (49 * 256 * 256 + 256) + 2 * (64 + 256 + 256)


def test_has_one_or_two_layers():
    with pytest.raises(ValueError, match="1 or 2, got 3"):
        DynamicConv(8, cells=4, layers=3)
