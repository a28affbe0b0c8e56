"""Trainings in which one bit flips, once, on one rank, in the middle of a step."""

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from qdet.errors import CorruptionError
from qdet.training.engine.sharded_state import MOMENTS
from qdet.training.step import StepMaker
from tests.support.ranks import _train


@dataclass(frozen=True)
class Flip:
    """Which bit flips: `weights`, `activations`, `gradients`, `optimizer` or (of weights) `gathered`."""

    what: str
    rank: int
    step: int
    """Counted from 1; it flips in it, the first time that it is made."""
    times: int = 1
    """How often what is computed or gathered is wrong: once, or also when it is computed again."""


def train_with_flips(flips, jobs, store):
    """Train each job with its flip (by the job's name), if it has one; write down how it ended."""
    for name, job in jobs.items():
        with flipping(flips.get(name)):
            try:
                _train({name: job}, store)
                said = ""
            except CorruptionError as error:
                said = str(error)
        rank = os.environ.get("RANK", "0")
        (store / f"{name}.{rank}.end.json").write_text(json.dumps({"said": said}))


@contextmanager
def flipping(flip):
    """Have a bit flip inside a `with`."""
    sound = StepMaker.make

    def make(maker, step, micro_batches):
        if flip is None or (maker.world.rank, step + 1) != (flip.rank, flip.step):
            return sound(maker, step, micro_batches)
        handle = _INJECTORS[flip.what](maker.learner, [flip.times])
        try:
            return sound(maker, step, micro_batches)
        finally:
            if handle is not None:
                handle.remove()

    StepMaker.make = make
    try:
        yield
    finally:
        StepMaker.make = sound


def flip_bit(values, at=3, bit=18):
    """Flip a bit of a tensor's memory: one in the middle of a float's mantissa."""
    with torch.no_grad():
        words = values.detach().view(-1).view(torch.int32)
        words[at % len(words)] ^= 1 << bit


def _flip_weights(learner, left):
    named = dict(learner.detector.named_parameters())
    flip_bit(getattr(named[_largest(named)], "ds_tensor", named[_largest(named)]))


def _flip_gathered(learner, left):
    """In the whole parameter that ZeRO-3 gathers for a layer, on this rank alone."""
    named = dict(learner.detector.named_parameters())
    owner, _, own = _largest(named).rpartition(".")

    def flip(module, inputs):
        if left[0] > 0:
            left[0] -= 1
            flip_bit(module._parameters[own].data)

    return learner.detector.get_submodule(owner).register_forward_pre_hook(flip)


def _flip_moments(learner, left):
    state = learner.engine.state._state()
    moments = [s[MOMENTS[0]] for s in state.values()]
    flip_bit(max(moments, key=torch.Tensor.numel), bit=30)


def _flip_gradient(learner, left):
    named = dict(learner.detector.named_parameters())

    def flip(gradient):
        if left[0] < 1:
            return None
        left[0] -= 1
        wrong = gradient.clone(memory_format=torch.contiguous_format)
        flip_bit(wrong)
        return wrong

    return named[_largest(named)].register_hook(flip)


def _flip_activation(learner, left):
    def flip(module, inputs, output):
        if left[0] < 1:
            return None
        left[0] -= 1
        wrong = output.clone(memory_format=torch.contiguous_format)
        flip_bit(wrong, bit=22)
        return wrong

    layer = next(m for m in learner.detector.backbone.modules() if isinstance(m, torch.nn.LayerNorm))
    return layer.register_forward_hook(flip)


def _largest(named):
    trained = {n: p for n, p in named.items() if p.requires_grad}
    return max(trained, key=lambda name: getattr(trained[name], "ds_numel", trained[name].numel()))


_INJECTORS = {
    "weights": _flip_weights,
    "activations": _flip_activation,
    "gradients": _flip_gradient,
    "gathered": _flip_gathered,
    "optimizer": _flip_moments,
}


def describe(flip):
    """Return a name for a run."""
    return "-".join(map(str, asdict(flip).values()))
