"""Parameters without a gradient are named, whatever the ZeRO stage, before anything comes of it."""

from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.spawn import ProcessException
from torch.utils.checkpoint import checkpoint

from qdet.errors import ConfigError
from qdet.training.health.unused_parameters import UnusedParameters
from tests.support.faulty_ranks import TwoHeads, leave_a_head_out
from tests.support.ranks import on_ranks


def test_a_parameter_without_a_gradient_is_named_once(capsys):
    module = TwoHeads()
    unused = UnusedParameters(module, rank=3, required=False)
    for use_second in (True, False, False, True, False):
        unused.watch(module(torch.ones(2, 4), use_second)).backward()
        unused.check()
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no gradient reached second.weight, second.bias on worker 3 (host" in said


def test_with_zero_3_an_unused_parameter_is_an_error_in_every_step():
    module = TwoHeads()
    unused = UnusedParameters(module, rank=0, required=True)
    for use_second in (True, False, True, False):
        unused.watch(module(torch.ones(2, 4), use_second)).backward()
        refused = pytest.raises(ConfigError, match=r"--train\.zero 3: no gradient reached second\.weight")
        with nullcontext() if use_second else refused:
            unused.check()


def test_a_recomputed_parameter_counts_as_used(capsys):
    module = TwoHeads()
    unused = UnusedParameters(module, rank=0, required=True)
    x = torch.ones(2, 4, requires_grad=True)
    unused.watch(checkpoint(module, x, True, use_reentrant=False)).backward()
    unused.check()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_an_unused_parameter_is_named_before_two_ranks_crash_in_their_collective(zero, tmp_path):
    # ZeRO-0 alone survives ranks whose parameters differ.
    with nullcontext() if zero == 0 else pytest.raises(ProcessException):
        on_ranks(2, leave_a_head_out, zero, tmp_path)
    said = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert said[1].startswith("a step\na step\nno gradient reached second.weight, second.bias on worker 1")
    assert "no gradient" not in said[0]
