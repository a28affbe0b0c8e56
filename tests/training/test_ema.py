"""The moving average against its definition, and that swapping changes nothing for good."""

from dataclasses import replace

import torch
from torch import nn

from qdet.checkpoint import Checkpoint, open_folder, write_whole
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.sharded_state import ShardedState
from tests.support.small_checkpoints import state


def test_average_is_the_recurrence():
    module = nn.Linear(2, 1, bias=False)
    ema = Ema(module, decay=0.9)
    expected = module.weight.detach().clone()
    for n in range(100):
        with torch.no_grad():
            module.weight.add_(torch.randn_like(module.weight))
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    with ema.swapped():
        torch.testing.assert_close(module.weight.detach(), expected)


def test_swapping_gives_the_weights_back():
    module = nn.Linear(3, 3)
    ema = Ema(module, decay=0.5)
    with torch.no_grad():
        module.weight.fill_(7)
    with ema.swapped():
        assert not (module.weight == 7).any()
    assert (module.weight == 7).all()


def test_without_decay_nothing_is_kept():
    module = nn.Linear(3, 3)
    ema = Ema(module, decay=0.0)
    ema.update()
    before = module.weight.detach().clone()
    with ema.swapped():
        assert torch.equal(module.weight, before)


def test_a_loaded_average_continues(tmp_path):
    module = nn.Linear(3, 3)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    held = ShardedState(module, torch.optim.AdamW(module.parameters()), stage=0, world=world)
    first, second = Ema(module, decay=0.9), Ema(module, decay=0.9)
    first.update()
    with torch.no_grad():
        module.weight.add_(1)
    first.update()
    whole = {
        piece.name: piece.values.reshape(held.shapes[piece.name.removeprefix("average/")])
        for piece in first.pieces(held)
    }
    write_whole(open_folder(tmp_path), whole, state=replace(state(), ema_updates=first.updates), job={})
    second.load(Checkpoint(open_folder(tmp_path)), held)
    assert second.updates == 2
    with torch.no_grad():
        module.bias.sub_(2)
    first.update()
    second.update()
    with first.swapped():
        one = module.bias.detach().clone()
    with second.swapped():
        assert torch.equal(module.bias, one)
