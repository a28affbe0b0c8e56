"""What a checkpoint costs a training: its state is copied to the host between two steps."""

from benchmarks.gpu.bench import Bench, Lines
from benchmarks.gpu.scenes import TrainingStep, build_detector, make_scene
from benchmarks.timing import summarize, take_turns
from qdet.training.checkpointing.async_write import HostCopy


def measure_staging(bench: Bench) -> Lines:
    """Milliseconds of a step, and of a step after which the whole state is copied."""
    scale = bench.scale
    shape = next(iter(scale.steps.values()))
    step = TrainingStep(build_detector(scale, shape[3]), scale)
    task = step.on(make_scene(shape, scale.device, seed=bench.seed), queries=shape[3])
    task()  # makes the optimizer's state
    copy = HostCopy()
    pieces = step.engine.state.pieces()
    size = sum(piece.values.numel() * piece.values.element_size() for piece in pieces)
    copy.take(pieces)  # allocates the memory, which later checkpoints use again
    variants = {"step": task, "state copied": lambda: copy.take(step.engine.state.pieces())}
    times = take_turns(variants, scale.device, rounds=scale.rounds // 2, warmup=1)
    for name, milliseconds in times.items():
        found = summarize(milliseconds)
        yield {"name": name, "gb": size / 1e9, "gb_per_s": 1e-6 * size / found["ms"]} | found
