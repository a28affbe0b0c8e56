"""DeepSpeed's ZeRO engine around one detector, for stages 1 to 3 on several ranks.

A job's settings become a DeepSpeed configuration here and nowhere else. Traps of DeepSpeed 0.19 that are
avoided: on a CPU it compiles a C++ op at start-up that only inference uses (and hangs forever on the lock
of a killed build); its process groups start with a timeout of 30 minutes; ZeRO-3 does not shard small
parameters, which an average of shards would miss; its buckets of 500 million numbers hold any of our models
whole, so that nothing is exchanged before the backward pass ends; and under autocast it sums the gradients
of all linear layers and convolutions over the ranks in bf16.
"""

import math
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from qdet.detectors.complexity import count_parameters
from qdet.job import OptimConfig, TrainConfig
from qdet.training.distributed import World
from qdet.training.engine.engine import Engine
from qdet.training.engine.sharded_state import ShardedState
from qdet.training.freeze import find_frozen
from qdet.training.optim import build_optimizer
from qdet.types import ExtraQueries

SMALLEST_BUCKET, LARGEST_BUCKET, BUCKETS = 1_000_000, 25_000_000, 4
"""Numbers that are exchanged at once, and the exchanges per step that a model is cut into between these."""


def zero_config(train: TrainConfig, optim: OptimConfig, *, world_size: int, trained: int) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a job on `world_size` ranks with `trained` parameters."""
    passes = train.passes(world_size)
    bucket = min(max(trained // BUCKETS, SMALLEST_BUCKET), LARGEST_BUCKET) // 2 * 2
    return {
        # DeepSpeed requires these to be consistent and only reports them. Workers may have different numbers
        # of images, so a pass counts as one.
        "train_batch_size": passes * world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": optim.clip_norm,
        "zero_optimization": {
            "stage": train.zero,
            "stage3_param_persistence_threshold": 0,
            # Buckets are summed whole, in place: to scatter one, DeepSpeed copies it, sums the copy whole,
            # and copies its part back.
            "reduce_scatter": train.zero == 3,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            # Not with several passes: after a skipped step ZeRO-1 of DeepSpeed 0.19 then adds gradients of
            # the step before (the loss was off by 2e-5).
            "overlap_comm": passes == 1,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # fp32 weights, and bf16 arithmetic inside linear layers and convolutions: bf16 weights are too
        # coarse for updates of 2.5e-5. Without modules that are safe in bf16, gradients are summed in fp32,
        # in one set of buckets.
        "torch_autocast": {
            "enabled": train.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 10**9,
    }


class ZeroEngine(Engine):
    """A detector whose optimizer, and from stage 2 on gradients and from 3 on weights, the ranks share."""

    def __init__(self, module: nn.Module, train: TrainConfig, optim: OptimConfig, world: World) -> None:
        self.module, self.world = module, world
        os.environ.setdefault("LOCAL_RANK", "0")
        if world.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        # torch 2.13 warns at every call that DeepSpeed makes to collectives by their old names.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\b")
        deepspeed = _import_deepspeed()
        trained = count_parameters(module, trainable=True)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module.to(world.device),
            optimizer=build_optimizer(module, optim, find_frozen(module, train.freeze)),
            config=zero_config(train, optim, world_size=world.size, trained=trained),
            dist_init_required=False,
        )
        self.loss_divisor = train.passes(world.size)
        self.state = ShardedState(module, self._optimizer, stage=int(train.zero), world=world)

    def __call__(self, *inputs: Tensor | ExtraQueries) -> Any:
        """Run the detector in the job's precision."""
        return self._engine(*inputs)

    def train(self) -> None:
        """Switch to training mode."""
        self._engine.train()

    def eval(self) -> None:
        """Switch to evaluation mode."""
        self._engine.eval()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch; `step` takes the mean over ranks and micro-batches."""
        self._engine.backward(loss)

    def step(self, lr_factor: float) -> Tensor | None:
        """End a micro-batch; after the last of a step, update the weights and return the gradient's norm."""
        last = self._engine.is_gradient_accumulation_boundary()
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        self._engine.step()
        if not last:
            return None
        norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(math.nan if norm is None else norm)

    def discard(self) -> None:
        """Forget the gradients of a step whose last backward pass is done.

        DeepSpeed makes the step and clears what it has gathered; AdamW changes nothing in it.
        """
        adamw = self._optimizer.optimizer
        adamw.found_inf = torch.ones((), device=self.world.device)
        self._engine.step()
        adamw.found_inf = None

    def release(self) -> None:
        """Drop weights of other ranks that a pass without `backward` has gathered; gradients stay."""
        if self.state.stage == 3:
            self._optimizer.parameter_offload.release_backward_leftovers()
            self._optimizer.parameter_offload.partition_all_parameters()


def _import_deepspeed() -> Any:
    """Import DeepSpeed without the C++ op that it would compile on a CPU."""
    import logging

    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    log = logging.getLogger("DeepSpeed")
    log.setLevel(logging.WARNING)
    # torch's fused AdamW is tested at every stage.
    log.addFilter(lambda record: "untested optimizer" not in record.getMessage())
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed
