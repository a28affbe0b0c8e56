"""Pre-train the demo's Swin: classify shapes in close-ups, then find them cell by cell in whole scenes.

The published recipe starts from ImageNet weights; the demo starts from these. Scenes come from a stream of
the renderer that no detection dataset uses, and the heads are discarded. Close-ups come first: a small Swin
learns shapes from them quickly, and from scenes alone hardly at all.

python -m data_prep.pretrain_backbone --out qdet/backbones/swin_demo.safetensors
"""

import copy
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn

from data_prep.command_line import run_command
from data_prep.rendering.cells import BACKGROUND, compute_cells, dense_loss, name_loss
from data_prep.rendering.close_ups import cut_close_ups
from data_prep.rendering.shapes import CLASSES, Scene, render
from qdet.backbones.swin.model import Swin, SwinConfig
from qdet.errors import ConfigError
from qdet.layers.pixels import normalize

FUSED = 64  # channels of the fused levels
POOL = 512  # scenes that the first close-ups are cut from
HELD_OUT = 10**6  # first index never trained on
MEASURED = 512  # held-out scenes for the accuracy


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Length and learning rate of the pre-training."""

    out: Path = Path("qdet/backbones/swin_demo.safetensors")
    """Weights to write, in bf16."""
    close_up_steps: int = 1500
    """Steps on close-ups only."""
    steps: int = 6000
    """Steps in all; after `close_up_steps`, half of each batch is close-ups, half scenes."""
    batch_size: int = 16
    """Images per step."""
    size: int = 128
    """Side of the images in pixels."""
    lr: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 0.02
    """Decoupled weight decay of matrices."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    ema: float = 0.999
    """Decay per step of the averaged weights that are saved."""
    seed: int = 0
    """Seed of weights and scenes."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if self.batch_size < 2:
            raise ConfigError(f"--batch-size must be at least 2, got {self.batch_size}")
        if self.size % 32:
            raise ConfigError(f"--size must be a multiple of 32, got {self.size}")


class Student(nn.Module):
    """The backbone with a head for close-ups at each level and a dense head for scenes."""

    backbone: Swin

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SwinConfig(size="demo", drop_path=0.0, weights=None).build()
        self.backbone.apply(_init_xavier)
        self.naming = nn.ModuleList(nn.Conv2d(c, len(CLASSES), 1) for c in self.backbone.channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, FUSED, 1) for c in self.backbone.channels)
        self.dense = nn.Conv2d(FUSED, len(CLASSES) + 1 + 4, 1)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return each level's class logits, and class-or-background logits and boxes of the finest cells.

        The latter come from the sum of all levels: a fine map alone sees too little of a large shape.
        """
        maps = self.backbone(images)
        fused = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        wide = [F.interpolate(f, fused[0].shape[-2:], mode="bilinear") for f in fused[1:]]
        dense = self.dense(F.relu(torch.stack([fused[0], *wide]).sum(0)))
        return [head(m).float() for head, m in zip(self.naming, maps, strict=True)], dense.float()


def _init_xavier(module: nn.Module) -> None:
    """Initialise wider than Swin's standard deviation of 0.02, which learns slowly at 32 channels."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)


def main(config: PretrainConfig) -> None:
    """Train, measure on held-out scenes, and save."""
    torch.manual_seed(config.seed)
    student = Student()
    averaged = copy.deepcopy(student)
    started, recent = time.process_time(), deque(maxlen=100)
    for step, losses in enumerate(train(student, averaged, config), start=1):
        recent.append(losses)
        if step % 100 == 0 or step == config.steps:
            naming, dense = np.mean(np.array(recent), axis=0)
            minutes = (time.process_time() - started) / 60
            print(
                f"step {step}/{config.steps} naming {naming:.3f} dense {dense:.3f} minutes {minutes:.1f}",
                flush=True,
            )
            save(averaged, config, {"step": step, "cpu_minutes": round(minutes, 1)})
    minutes = (time.process_time() - started) / 60
    accuracy = measure(averaged, config)
    print(accuracy)
    save(averaged, config, {"step": config.steps, "cpu_minutes": round(minutes, 1), **accuracy})


def save(student: Student, config: PretrainConfig, facts: dict[str, object]) -> None:
    """Save the backbone in bf16, with the settings and `facts` as metadata."""
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in student.backbone.state_dict().items()}
    settings = {name: value for name, value in vars(config).items() if name != "out"}
    save_file(weights, config.out, {name: str(value) for name, value in (settings | facts).items()})


def train(student: Student, averaged: Student, config: PretrainConfig) -> Iterator[tuple[float, float]]:
    """Train for `config.steps`; yield each step's losses of close-ups and scenes (NaN without scenes)."""
    rng = np.random.default_rng(config.seed)
    optimizer, schedule = _build_optimizer(student, config)
    stride, half = student.backbone.strides[0], config.batch_size // 2
    pool = deque(_render_scenes(config, 0, POOL), maxlen=2048)
    for step in range(config.steps):
        scenes = _render_scenes(config, POOL + step * half, half)
        pool.extend(scenes)
        alone = step < config.close_up_steps
        count = config.batch_size if alone else half
        tile = config.size // (2 if step % 3 == 0 else 4)
        images, names = cut_close_ups(rng, pool, count, tile=tile, size=config.size)
        if not alone:
            images += [s.image for s in scenes]
        with torch.autocast("cpu", torch.bfloat16):
            naming, dense = student(_to_input(images))
        losses = [name_loss([n[:count] for n in naming], names)]
        if not alone:
            losses.append(dense_loss(dense[count:], compute_cells(scenes, stride)))
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            decay = min(config.ema, (1 + step) / (10 + step))
            for average, parameter in zip(averaged.parameters(), student.parameters(), strict=True):
                average.lerp_(parameter, 1 - decay)
        yield losses[0].item(), np.nan if alone else losses[1].item()


def _render_scenes(config: PretrainConfig, first: int, count: int) -> list[Scene]:
    return [render(config.seed, "pretrain", first + i, config.size) for i in range(count)]


def _to_input(images: list[UInt8[np.ndarray, "S S 3"]]) -> Float[Tensor, "B 3 S S"]:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return normalize(pixels, torch.tensor([pixels.shape[2:]] * len(images)))


def _build_optimizer(
    student: Student, config: PretrainConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Build AdamW, which decays matrices only, with linear warm-up and cosine decay to zero."""
    matrices = [p for p in student.parameters() if p.ndim > 1]
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)

    def factor(step: int) -> float:
        return min((step + 1) / config.warmup, 0.5 + 0.5 * math.cos(math.pi * step / config.steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def measure(student: Student, config: PretrainConfig) -> dict[str, float]:
    """Return the accuracy (0 to 1) on tiles and on object cells of held-out scenes."""
    rng, tiles, on_objects = np.random.default_rng(config.seed), [], []
    for first in range(HELD_OUT, HELD_OUT + MEASURED, 16):
        scenes = _render_scenes(config, first, 16)
        images, names = cut_close_ups(rng, scenes, 4, tile=config.size // 4, size=config.size)
        naming, dense = student(_to_input(images + [s.image for s in scenes]))
        tiles.append(F.adaptive_avg_pool2d(naming[-1][:4], 4).argmax(1) == torch.from_numpy(names))
        shown = compute_cells(scenes, student.backbone.strides[0])
        right = dense[4:, :BACKGROUND].argmax(1) == shown.shares[:, :BACKGROUND].argmax(1)
        on_objects.append(right[shown.covered > 0])
    correct = {"close_up_accuracy": torch.cat(tiles), "cell_accuracy": torch.cat(on_objects)}
    return {name: round(hits.float().mean().item(), 3) for name, hits in correct.items()}


if __name__ == "__main__":
    run_command(PretrainConfig, main, about="Pre-train the demo's backbone on rendered scenes.")
