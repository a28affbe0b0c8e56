"""Small programs that run on several ranks over gloo, with a fault in them, and write down what they see."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import nn

from qdet.job import OptimConfig, TrainConfig


def on_ranks(ranks, program, *args):
    """Run `program(rank, ranks, *args)` on every rank; raises what one of them raises."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(_rank, args=(ranks, port, program, args), nprocs=ranks)


def _rank(rank, ranks, port, program, args):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    program(rank, ranks, *args)


class TwoHeads(nn.Module):
    """A model that can leave some of its parameters out."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x, use_second):
        x = self.frozen(self.body(x))
        return self.first(x).sum() + (self.second(x).sum() if use_second else 0)


def engine_of(module, ranks, *, zero, accumulation=1, timeout=20, optim=None):
    """Return the world and an engine around `module`, with one row per rank and pass."""
    from qdet.training.distributed import join
    from qdet.training.zero import ZeroEngine

    world = join("cpu", timeout=timeout)
    train = replace(
        TrainConfig(),
        zero=zero,
        batch_size=ranks * accumulation,
        accumulation=accumulation,
        workers=ranks,
        precision="fp32",
        timeout=timeout,
    )
    return world, ZeroEngine(module, train, optim or OptimConfig(), world)


def leave_a_head_out(rank, ranks, zero, folder: Path):
    """Two steps with every parameter, then one in which the last rank leaves the second head out."""
    from qdet.training.participation import Participation

    module = TwoHeads()
    _, engine = engine_of(module, ranks, zero=zero)
    watch = Participation(module, rank=rank, must=zero == 3)
    log = os.open(folder / f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    for use_second in (True, True, rank < ranks - 1):
        engine.backward(watch.watched(engine(torch.ones(1, 4), use_second)))
        watch.check()
        engine.step(1.0)
        print("a step", flush=True)


def wait_for_one_that_sleeps(rank, ranks, zero, folder: Path):
    """Two steps, then the last rank falls asleep; the others write what becomes of them, and when."""
    from torch.distributed import distributed_c10d as c10d

    _, engine = engine_of(TwoHeads(), ranks, zero=zero, timeout=3)
    said = [str(group.options._timeout) for group in c10d._world.pg_map]
    (folder / f"groups{rank}.txt").write_text("\n".join(said))
    for step in range(3):
        if step == 2 and rank == ranks - 1:
            time.sleep(30)
            os._exit(0)
        started = time.monotonic()
        try:
            engine.backward(engine(torch.ones(1, 4), True))
            engine.step(1.0)
        except RuntimeError as error:
            (folder / f"rank{rank}.txt").write_text(f"{time.monotonic() - started} {error}")
            os._exit(0)
