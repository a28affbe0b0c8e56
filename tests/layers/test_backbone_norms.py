"""Frozen batch norm against PyTorch's in evaluation, group norm's groups, stochastic depth."""

import pytest
import torch
from torch import nn

from qdet.backbones.swin.drop_path import DropPath
from qdet.layers.conv.batch_norm import FrozenBatchNorm, make_norm
from qdet.layers.conv.normed_conv import NormedConv2d


def reference(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double().eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    return norm


def ours(norm: nn.BatchNorm2d, *, train_affine: bool) -> FrozenBatchNorm:
    frozen = FrozenBatchNorm(norm.num_features, train_affine=train_affine).double()
    state = norm.state_dict()
    del state["num_batches_tracked"]
    frozen.load_state_dict(state)
    return frozen


@pytest.mark.parametrize("train_affine", [False, True])
def test_equals_batch_norm_in_evaluation_whatever_the_mode(train_affine):
    norm, x = reference(6), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    frozen = ours(norm, train_affine=train_affine)
    for module in (frozen.eval(), frozen.train()):
        torch.testing.assert_close(module(x), norm(x), atol=1e-12, rtol=0)


def test_only_the_affine_part_is_ever_trained():
    norm, x = reference(3), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert not list(ours(norm, train_affine=False).parameters())
    trained = ours(norm, train_affine=True)
    trained(x).square().sum().backward()
    norm(x).square().sum().backward()
    torch.testing.assert_close(trained.weight.grad, norm.weight.grad)
    torch.testing.assert_close(trained.bias.grad, norm.bias.grad)


def test_a_tiny_variance_does_not_overflow_in_bfloat16():
    norm = FrozenBatchNorm(2)
    norm.running_var.fill_(1e-12)
    x = torch.randn(1, 2, 2, 2, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    assert norm(x).isfinite().all()


@pytest.mark.parametrize("kind", ["frozen", "eval", "group"])
@pytest.mark.parametrize(
    "taps",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "groups": 2},
        {"kernel_size": 1, "padding": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("channels", "size"), [(6, (9, 11)), (48, (3, 3))], ids=["large map", "small map"])
def test_a_convolution_with_its_norm_equals_both_one_after_the_other(kind, taps, layout, channels, size):
    norm, other = (make_norm(kind, 8).double() for _ in range(2))
    for tensor in norm.state_dict().values():
        nn.init.uniform_(tensor, 0.2, 2)
    other.load_state_dict(norm.state_dict())
    both, alone = (
        NormedConv2d(channels, 8, **taps, bias=False).double(),
        nn.Conv2d(channels, 8, **taps, bias=False).double(),
    )
    alone.load_state_dict(both.state_dict())
    values = torch.randn(2, channels, *size, dtype=torch.float64).contiguous(memory_format=layout)
    x, y = (values.clone().requires_grad_() for _ in range(2))
    got, want = both(x, norm), other(alone(y))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    slope = torch.randn_like(want)
    got.backward(slope)
    want.backward(slope)
    torch.testing.assert_close(both.weight.grad, alone.weight.grad, atol=1e-11, rtol=0)
    torch.testing.assert_close(x.grad, y.grad, atol=1e-12, rtol=0)
    for one, apart in zip(norm.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, apart.grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("of_x", "of_weight"), [(True, False), (False, True)])
def test_only_the_gradients_that_are_wanted_are_computed(of_x, of_weight):
    norm, conv = make_norm("frozen", 4), NormedConv2d(4, 4, 1, bias=False).requires_grad_(of_weight)
    x = torch.randn(1, 4, 3, 3, requires_grad=of_x)
    conv(x, norm).sum().backward()
    assert (x.grad is not None, conv.weight.grad is not None) == (of_x, of_weight)


@pytest.mark.parametrize("side", [8, 4])
def test_a_folded_convolution_runs_in_the_precision_around_it(side):
    norm, conv = make_norm("frozen", 8), NormedConv2d(6, 8, 3, padding=1, bias=False)
    nn.init.uniform_(norm.weight, 0.5, 2)
    x = torch.randn(2, 6, side, side, requires_grad=True)
    wide = conv(x, norm)
    (want,) = torch.autograd.grad(wide.sum(), conv.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = conv(x, norm)
    assert narrow.dtype == torch.bfloat16
    (got,) = torch.autograd.grad(narrow.sum(), conv.weight)
    assert got.dtype == torch.float32
    torch.testing.assert_close(narrow.float(), wide, atol=0.05, rtol=0.05)
    torch.testing.assert_close(got, want, atol=0.5, rtol=0.05)


@pytest.mark.parametrize("kind", ["frozen", "eval"])
def test_folding_keeps_no_second_copy_of_the_map_or_of_the_weight(kind):
    norm, conv = make_norm(kind, 4), NormedConv2d(4, 4, 3, bias=False)
    x, kept = torch.randn(1, 4, 32, 32, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        conv(x, norm)
    assert [t.data_ptr() for t in kept if t.numel() == x.numel()] == [x.data_ptr()]
    assert [t.data_ptr() for t in kept if t.shape == conv.weight.shape] == [conv.weight.data_ptr()]


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (16, 4), (24, 2), (64, 16), (128, 32), (1024, 32)])
def test_groups_are_at_most_32_and_divide_the_channels(channels, groups):
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups
    assert channels % groups == 0


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25).train()
    branch = torch.ones(4000, 2, 3)
    dropped = drop(branch)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (dropped.flatten(1).amin(1) == dropped.flatten(1).amax(1)).all()
    assert abs(dropped.mean().item() - 1) < 0.05
    assert torch.equal(drop.eval()(branch), branch)
    with pytest.raises(ValueError, match="got 1"):
        DropPath(1.0)
