"""DeepSpeed's ZeRO engine around one detector: forward, backward, step.

A job's settings become a DeepSpeed configuration here and nowhere else. Three traps of DeepSpeed 0.19 are
avoided: on a CPU it compiles a C++ op at start-up that only inference uses (and hangs forever on the lock of
a killed build), its process groups start with a timeout of 30 minutes, and ZeRO-3 does not shard small
parameters, which an average of shards would miss.
"""

import math
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from qdet.job import OptimConfig, TrainConfig
from qdet.training.distributed import World, set_timeout_of_all_groups
from qdet.training.freeze import find_frozen
from qdet.training.optim import build_optimizer
from qdet.training.sharded_state import ShardedState
from qdet.types import ExtraQueries


def zero_config(train: TrainConfig, optim: OptimConfig, *, world_size: int) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a job on `world_size` ranks."""
    passes = train.passes(world_size)
    return {
        # DeepSpeed requires these to be consistent and only reports them. Workers may have different numbers
        # of images, so a pass counts as one.
        "train_batch_size": passes * world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": optim.clip_norm,
        "zero_optimization": {"stage": train.zero, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # fp32 weights, and bf16 arithmetic inside linear layers and convolutions: bf16 weights are too coarse
        # for updates of 2.5e-5.
        "torch_autocast": {"enabled": train.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
    }


class ZeroEngine:
    """One detector, its optimizer and the ranks they are sharded over.

    All methods are collective. `module` is the detector itself; call the engine, not the module, to get the
    job's precision.
    """

    def __init__(self, module: nn.Module, train: TrainConfig, optim: OptimConfig, world: World) -> None:
        self.module, self.world, self.stage = module, world, train.zero
        os.environ.setdefault("LOCAL_RANK", "0")
        if world.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        # torch 2.13 warns at every call that DeepSpeed makes to collectives by their old names.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\b")
        deepspeed = _import_deepspeed()
        self._adamw = build_optimizer(module, optim, find_frozen(module, train.freeze))
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module.to(world.device),
            optimizer=self._adamw,
            config=zero_config(train, optim, world_size=world.size),
            dist_init_required=False,
        )
        set_timeout_of_all_groups(train.timeout)
        self.state = ShardedState(module, self._optimizer, stage=train.zero, world=world)
        """This rank's part of weights and moments."""

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

    def step(self, lr_factor: float) -> float:
        """End a micro-batch; after the last of a step, update the weights and return the gradient's L2 norm.

        The norm is that before clipping. If it is not finite, which all ranks see, no rank has changed
        weights or AdamW's state. After other micro-batches nothing is updated and NaN is returned.
        """
        last = self._engine.is_gradient_accumulation_boundary()
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        norm = self._norm_of_whole_gradients() if last and self.stage == 0 else None
        self._adamw.skip = norm is not None and not math.isfinite(norm)
        self._engine.step()
        if not last:
            return math.nan
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return math.nan if norm is None else float(norm)

    def _norm_of_whole_gradients(self) -> float:
        grads = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))


def _import_deepspeed() -> Any:
    """Import DeepSpeed without the C++ op that it would compile on a CPU."""
    import logging

    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    log = logging.getLogger("DeepSpeed")
    log.setLevel(logging.WARNING)
    # Our AdamW skips steps whose gradient is not finite, and is tested at every stage.
    log.addFilter(lambda record: "untested optimizer" not in record.getMessage())
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed
