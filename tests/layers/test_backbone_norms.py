"""Frozen batch norm against PyTorch's in evaluation, group norm's groups, stochastic depth."""

import pytest
import torch
from torch import nn

from qdet.layers.drop_path import DropPath
from qdet.layers.norm import FrozenBatchNorm, make_norm
from qdet.layers.normed_conv import NormedConv2d


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
def test_a_convolution_with_its_norm_equals_both_one_after_the_other(kind):
    norm = make_norm(kind, 8).double()
    for tensor in norm.state_dict().values():
        nn.init.uniform_(tensor, 0.2, 2)
    both = NormedConv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False).double()
    alone = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False).double()
    alone.load_state_dict(both.state_dict())
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    got, want = both(x, norm), norm(alone(x))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(both.weight.grad, alone.weight.grad)


def test_folding_keeps_no_second_copy_of_the_map():
    norm, conv = make_norm("frozen", 4), NormedConv2d(4, 4, 1, bias=False)
    x, kept = torch.randn(1, 4, 32, 32, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        conv(x, norm)
    assert kept.count(x.numel()) == 1  # the convolution's input, and nothing for the norm


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
