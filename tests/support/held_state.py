"""What a rank holds of weights, gradients, moments and averages when its last gradient is there, by count."""

import gc
import json
from pathlib import Path

import torch
from torch import Tensor

from qdet.detectors.complexity import count_parameters
from qdet.job import Job
from qdet.training.distributed import join
from qdet.training.ema import Ema
from qdet.training.engine.build import build_engine
from qdet.training.engine.engine import Engine
from qdet.training.engine.plain import PlainEngine
from qdet.training.engine.zero import zero_config

CLASSES = 3


def count_bytes(tensors: list[Tensor]) -> int:
    """Return the bytes of the memory behind tensors, each once."""
    storages = [one.untyped_storage() for one in tensors]
    return sum({one.data_ptr(): one.nbytes() for one in storages if one.nbytes()}.values())


def list_tensors() -> list[Tensor]:
    """Return every tensor on the CPU that Python knows in this process."""
    found = [one for one in gc.get_objects() if issubclass(type(one), Tensor) and one.device.type == "cpu"]
    return found + [one.grad for one in found if one.is_leaf and one.grad is not None]


def measure(jobs: dict[str, Job], store: Path) -> None:
    """Write what rank 0 holds in each job in its second step, as JSON by the job's name."""
    for name, job in jobs.items():
        held = measure_one(job)
        if held["rank"] == 0:
            (store / f"{name}.json").write_text(json.dumps(held))


def measure_one(job: Job) -> dict[str, int]:
    """Make one step and half of another; count what was not there before, and is in no bucket."""
    world = join("cpu", timeout=60)
    gc.collect()
    before = count_bytes(list_tensors())
    torch.manual_seed(0)
    detector = job.detector.build(CLASSES)
    counts = count_parameters(detector), count_parameters(detector, trainable=True)
    engine = build_engine(detector, job.train, job.optim, world)
    average = Ema(detector, job.optim.ema_decay)
    passes = job.train.passes(world.size)
    for _ in range(passes):
        run_backward(engine)
        engine.step(1.0)
    average.update()
    gc.collect()
    most, arrived = [0], [0]

    def arrive(_: Tensor) -> None:
        arrived[0] += 1
        if arrived[0] == passes * sum(one.requires_grad for one in detector.parameters()):
            most[0] = count_bytes(list_tensors()) - count_exchange(engine, job, counts[1])

    for parameter in detector.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(arrive)
    for _ in range(passes - 1):
        run_backward(engine)
        engine.step(1.0)
    run_backward(engine)
    after = count_bytes(list_tensors()) - count_exchange(engine, job, counts[1])
    held = {"last": most[0] - before, "after": after - before, "arrived": arrived[0]}
    return {"rank": world.rank, "parameters": counts[0], "trained": counts[1], **held}


def count_exchange(engine: Engine, job: Job, trained: int) -> int:
    """Return the bytes of buckets on their way to the other ranks, which are no state."""
    if isinstance(engine, PlainEngine):
        return 0  # its gradients are in their buckets
    config = zero_config(job.train, job.optim, world_size=2, trained=trained)["zero_optimization"]
    size = 4 * config["reduce_bucket_size"]
    return count_bytes([one for one in list_tensors() if one.untyped_storage().nbytes() == size])


def run_backward(engine: Engine) -> None:
    """Let every parameter have a gradient; what the forward pass kept is gone after it."""
    images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    engine.train()
    stages = engine(images, torch.tensor([[64.0, 64.0]]))
    total = sum(one.logits.square().mean() + (one.boxes_xyxy / 64).square().mean() for one in stages)
    assert isinstance(total, Tensor)
    engine.backward(total)
