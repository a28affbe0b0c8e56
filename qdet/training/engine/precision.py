"""`--train.precision auto`: bf16 where all ranks have GPUs with it, else fp32."""

import torch

from qdet.config import override
from qdet.job import Job
from qdet.training.distributed import World


def settle_precision(job: Job, world: World) -> Job:
    """Return `job` with bf16 or fp32 for `--train.precision auto`, the same on all ranks. Collective.

    fp32 as soon as one rank has a CPU, or a GPU that only emulates bf16. Rank 0 prints which.
    """
    if job.train.precision != "auto":
        return job
    devices = world.gather(_name_device_without_bf16(world.device))
    slow = world.broadcast(next(filter(None, devices), ""))
    chosen = "fp32" if slow else "bf16"
    if world.main:
        why = f"{slow} among the devices keeps fp32" if slow else "all devices have bf16 in hardware"
        print(f"--train.precision auto: {chosen}; {why}", flush=True)
    return override(job, {"train.precision": chosen})


def _name_device_without_bf16(device: torch.device) -> str:
    if device.type != "cuda":
        return "a CPU"
    fast = torch.cuda.is_bf16_supported(including_emulation=False)  # of the device that `join` chose
    return "" if fast else torch.cuda.get_device_name(device)
