"""`--train.precision auto`: bf16 where the devices of all ranks compute it in hardware, else fp32."""

import torch

from qdet.config import override
from qdet.job import Job
from qdet.training.distributed import World


def settle_precision(job: Job, world: World) -> Job:
    """Return `job` with bf16 or fp32 for `--train.precision auto`, the same on all ranks. Collective.

    fp32 as soon as one rank has a device that only emulates bf16. What the hardware can do decides, and no
    timing: a restart, the same job once more and the next trial of a sweep must choose alike, whatever else
    the machines do meanwhile. Rank 0 prints which.
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
    """Return "" where bf16 pays: GPUs that do not emulate it, CPUs for which oneDNN has instructions."""
    if device.type == "cuda":  # the device that `join` chose
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "" if fast else torch.cuda.get_device_name(device)
    fast = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return "" if device.type == "cpu" and fast else "a CPU without avx512_bf16"
