"""The precision of a run: what `--train.precision auto` becomes on the devices that train."""

from qdet.config import override
from qdet.job import Job
from qdet.layers.precision import name_emulator
from qdet.training.distributed import World


def settle_precision(job: Job, world: World) -> Job:
    """Return `job` with bf16 or fp32 for `--train.precision auto`, the same on all ranks. Collective.

    fp32 as soon as one rank has a device that only emulates bf16. What the hardware can do decides, and no
    timing: a restart, the same job once more and the next trial of a sweep must choose alike, whatever else
    the machines do meanwhile. Rank 0 prints which, and what a bf16 that the job names will cost.
    """
    asked = job.train.precision
    if asked == "fp32":
        return job
    devices = world.gather(name_emulator(world.device))
    slow = world.broadcast(next(filter(None, devices), ""))
    chosen = "fp32" if slow else "bf16"
    if world.main and asked == "auto":
        why = f"{slow} among the devices keeps fp32" if slow else "all devices have bf16 in hardware"
        print(f"--train.precision auto: {chosen}; {why}", flush=True)
    elif world.main and slow:
        print(
            f"--train.precision bf16: {slow} among the devices emulates it, which can take 20 times as long "
            "as fp32; --train.precision auto takes fp32 there",
            flush=True,
        )
    return override(job, {"train.precision": chosen}) if asked == "auto" else job
