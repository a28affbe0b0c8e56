"""Training steps of detectors that transformers has too, with the same weights."""

import torch

from benchmarks.detectors_vs_transformers import DETECTORS, Batch, make_batch, make_steps
from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.steps import emptied
from benchmarks.timing import summarize, take_turns


def measure_others(bench: Bench) -> Lines:
    """Milliseconds of our step and of theirs, by turns, in bf16 on a GPU."""
    scale = bench.scale
    images, height, width, _ = scale.others
    torch.manual_seed(bench.seed)
    batch: Batch = make_batch(torch.tensor([[height, width]] * images)).to(scale.device)
    for name in DETECTORS:
        with emptied(scale):
            bf16 = torch.autocast(scale.device.type, torch.bfloat16, enabled=scale.device.type == "cuda")
            with bf16:
                steps = make_steps(name, batch)
                times = take_turns(
                    steps, scale.device, rounds=max(2, scale.rounds // 3), warmup=scale.warmup // 3
                )
        shown = {which: summarize(milliseconds) for which, milliseconds in times.items()}
        for which, found in shown.items():
            ratio = shown["theirs"]["ms"] / found["ms"]
            speed = {"images_per_s": 1e3 * images / found["ms"], "of_theirs": ratio}
            yield {"name": name, "variant": which} | speed | found
