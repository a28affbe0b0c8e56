"""The learning rate against the recipe's own numbers and against torch's schedulers."""

import math

import pytest
import torch

from qdet.job import OptimConfig
from qdet.training.optim import lr_factor


def test_three_times_schedule_of_adamixer():
    optim = OptimConfig(warmup_steps=1000, drop_epochs=(24, 33))
    factor = lambda step: lr_factor(step, steps=36 * 100, steps_per_epoch=100, optim=optim)  # noqa: E731
    assert factor(0) == pytest.approx(0.001)
    assert factor(500) == pytest.approx(0.5005)
    assert factor(1000) == 1
    assert factor(2399) == 1
    assert factor(2400) == pytest.approx(0.1)
    assert factor(3299) == pytest.approx(0.1)
    assert factor(3300) == pytest.approx(0.01)


def test_cosine_equals_torch():
    optim = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=0)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=50)
    for step in range(50):
        assert lr_factor(step, steps=50, steps_per_epoch=10, optim=optim) == pytest.approx(
            sgd.param_groups[0]["lr"], abs=1e-12
        )
        sgd.step()
        cosine.step()


def test_cosine_with_warmup_starts_low_and_ends_at_zero():
    optim = OptimConfig(schedule="cosine", warmup_steps=10, warmup_ratio=0.1)
    factors = [lr_factor(s, steps=100, steps_per_epoch=10, optim=optim) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) < 1
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(math.isfinite(f) for f in factors)
