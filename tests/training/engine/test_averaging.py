"""Sums of gradients over ranks, against sums of what each rank computes by itself."""

import json
from itertools import product

import torch
import torch.distributed as dist
from torch import nn

from qdet.training.distributed import join
from qdet.training.engine.averaging import GradientSums
from tests.support.ranks import on_ranks

SHAPES = ((3,), (2, 5), (4, 2, 3, 3), (), (7,))
BUCKETS = {40: 4, 10_000: 1}
"""How many there are by what one may hold."""
STEPS = 4
USED = {
    "everywhere": lambda rank, step, passed, number: True,
    "by one rank": lambda rank, step, passed, number: rank == number % 2,
    "in one of two passes": lambda rank, step, passed, number: passed == (number + rank) % 2,
    "in some steps": lambda rank, step, passed, number: (step + number) % 3 == rank,
    "by nobody": lambda rank, step, passed, number: number > 1,
}
"""Whether a parameter, by its number, is part of a loss."""


def _compute(parameters, used, rank, step):
    """Return the losses of the passes of a step: whole numbers, whose sums are exact."""
    random = torch.Generator().manual_seed(10 * step + rank)
    losses = []
    for passed in range(2):
        terms = [(p * torch.randint(-9, 9, p.shape, generator=random)).sum() for p in parameters]
        kept = [term for number, term in enumerate(terms) if used(rank, step, passed, number)]
        losses.append(sum(kept, 0 * parameters[-1].sum()))  # a pass has some gradient
    return losses


def _make_parameters():
    made = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    made[2] = nn.Parameter(made[2].detach().contiguous(memory_format=torch.channels_last))
    return made


def _sum_on_two_ranks(place):
    world = join("cpu", timeout=60)
    found = [_sum(used, most, world.rank) for used in USED.values() for most in BUCKETS]
    (place / f"{world.rank}.json").write_text(json.dumps(found))
    dist.barrier()


def _sum(used, most, rank):
    """Return the gradients after each step, and how many pieces of memory they lie in."""
    parameters = _make_parameters()
    sums, found = GradientSums(parameters, most=most), []
    for step in range(STEPS):
        first, last = _compute(parameters, used, rank, step)
        first.backward()
        sums.arm()
        last.backward()
        sums.send_rest()
        sums.finish()
        gradients = [p.grad for p in parameters]
        memory = {gradient.untyped_storage().data_ptr() for gradient in gradients}
        found.append([[one.tolist() for one in gradients], len(memory)])
        for parameter in parameters:
            parameter.grad = None
    return found


def test_every_rank_gets_the_sum_of_all_passes_of_all_ranks(tmp_path):
    on_ranks(2, _sum_on_two_ranks, tmp_path)
    for rank in range(2):
        found = iter(json.loads((tmp_path / f"{rank}.json").read_text()))
        for (name, used), buckets in product(USED.items(), BUCKETS.values()):
            for step, (gradients, pieces) in enumerate(next(found)):
                parameters = _make_parameters()
                sum(sum(_compute(parameters, used, one, step)) for one in range(2)).backward()
                expected = [(0 * p if p.grad is None else p.grad).tolist() for p in parameters]
                assert gradients == expected, (name, step)
                assert pieces == buckets
