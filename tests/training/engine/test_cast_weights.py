"""Weights that are cast together, against autocast, which casts them one by one."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qdet.layers.conv import normed_conv
from qdet.training.engine.cast_weights import CastWeights
from tests.support.detector_variants import CLASSES, ONE_EACH, VARIANTS, images, objects, shaken

MOST = 2_000_000
"""Bytes of a bucket, so that each detector has several."""
SIZES = torch.tensor([[64, 48], [50, 64]])


class Casts(TorchDispatchMode):
    """Counts what is dispatched, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[str(func.overloadpacket)] += 1
        return func(*args, **kwargs or {})


def make(name):
    torch.manual_seed(0)
    config, loss = VARIANTS[name]
    return shaken(config.build(CLASSES)).train(), loss.build(CLASSES)


def step(run, detector, criterion, seed):
    """Return the losses of a pass in bf16, the gradients, and what was dispatched."""
    torch.manual_seed(seed)
    detector.zero_grad()
    with Casts() as casts:
        with torch.autocast("cpu", torch.bfloat16):
            stages = run(images(SIZES, 64, 64), SIZES)
        losses = criterion(stages, objects(3, 2), SIZES, normalizer=5.0)
        losses.total.backward()
    grads = {n: p.grad for n, p in detector.named_parameters() if p.grad is not None}
    return losses.total.detach(), grads, casts.found


@pytest.mark.parametrize(
    ("name", "folds"), [*((name, False) for name in sorted(ONE_EACH)), (sorted(ONE_EACH)[0], True)]
)
def test_losses_and_gradients_are_those_of_autocast(name, folds, monkeypatch):
    # norms as a GPU runs them, or folded into convolutions that cast their weights by themselves
    monkeypatch.setattr(normed_conv, "computes_on_a_cpu", lambda _: folds)
    detector, criterion = make(name)
    together = CastWeights(detector, most=MOST)
    for seed in range(2):  # the first pass shows what is cast
        loss, grads, one_by_one = step(detector, detector, criterion, seed)
        found, cast_grads, at_once = step(together, detector, criterion, seed)
        assert torch.equal(found, loss)
        assert cast_grads.keys() == grads.keys()
        assert all(torch.equal(cast_grads[n], grads[n]) for n in grads)
    assert at_once["aten._to_copy"] < one_by_one["aten._to_copy"] - 20
    assert 1 < at_once["aten._foreach_copy_"] - one_by_one["aten._foreach_copy_"] < 20


class Sentinel(nn.Module):
    """Reads one weight in bf16, one in fp32, one of each kind that is frozen or unused."""

    def __init__(self) -> None:
        super().__init__()
        self.product, self.frozen, self.unused = (nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.frozen.requires_grad_(False)
        self.seen: dict[str, torch.dtype] = {}

    def forward(self, x, skip=False):
        x = self.frozen(self.norm(x))
        self.seen = {n: dict(self.named_parameters())[n].dtype for n in ("product.weight", "frozen.weight")}
        return x if skip else self.product(x)


def autocast(run, *inputs):
    with torch.autocast("cpu", torch.bfloat16):
        return run(*inputs)


def test_frozen_weights_get_no_gradient_and_unused_ones_none():
    module = Sentinel()
    run, x = CastWeights(module), torch.randn(2, 4)
    for _ in range(2):
        module.zero_grad()
        autocast(run, x).sum().backward()
        assert {n for n, p in module.named_parameters() if p.grad is not None} == {
            "product.weight", "product.bias", "norm.weight", "norm.bias",
        }  # fmt: skip
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in module.product.parameters())
    module.zero_grad()
    autocast(run, x, True).sum().backward()
    assert module.product.weight.grad is None
    assert module.norm.weight.grad is not None


def test_a_pass_without_gradients_is_autocasts():
    module = Sentinel()
    run, x = CastWeights(module), torch.randn(2, 4)
    with torch.no_grad():
        autocast(run, x)
        assert set(module.seen.values()) == {torch.float32}
    autocast(run, x)
    autocast(run, x)
    assert set(module.seen.values()) == {torch.bfloat16}
    with torch.no_grad():
        autocast(run, x)
    assert set(module.seen.values()) == {torch.float32}


class Layer(nn.Module):
    """torch compiles what is not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x).relu()


def test_a_compiled_module_is_compiled_from_its_second_pass():
    torch.manual_seed(0)
    module, x, graphs = Layer(), torch.randn(2, 4), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    plain = CastWeights(module)
    with torch.autocast("cpu", torch.bfloat16):
        expected = [plain(x) for _ in range(2)][-1]
        module.compile(backend=backend)
        run = CastWeights(module)
        counts = [(run(x).equal(expected), len(graphs)) for _ in range(3)]
    assert counts == [(True, 0), (True, 1), (True, 1)]
