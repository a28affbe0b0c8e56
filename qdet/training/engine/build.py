"""Builds the engine that a job needs."""

from torch import nn

from qdet.job import OptimConfig, TrainConfig
from qdet.training.distributed import World, set_timeout_of_all_groups
from qdet.training.engine.canonical import CanonicalEngine
from qdet.training.engine.engine import Engine
from qdet.training.engine.plain import PlainEngine


def build_engine(module: nn.Module, train: TrainConfig, optim: OptimConfig, world: World) -> Engine:
    """Build DeepSpeed's engine where several ranks share the state of `module`, else plain torch. Collective.

    `train.zero` is a number (`qdet.training.engine.stage.settle_stage`).
    """
    if train.canonical:
        engine: Engine = CanonicalEngine(module, train, optim, world)
    elif world.size == 1 or train.zero == 0:
        engine = PlainEngine(module, train, optim, world)
    else:
        from qdet.training.engine.zero import ZeroEngine

        engine = ZeroEngine(module, train, optim, world)
    set_timeout_of_all_groups(train.timeout)
    return engine
