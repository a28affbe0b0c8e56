"""The batches that a job trains on, drawn: one sheet per step."""

from collections.abc import Sequence
from pathlib import Path

import torch

from qdet.job import Job
from qdet.job_files import find_job
from qdet.launching.cli import parse
from qdet.launching.commands.models.picture_files import picture_folder
from qdet.recipes import read
from qdet.training.distributed import World
from qdet.training.streams import build_stream
from qdet.visualize.samples import TrainingSample, draw_samples, samples_of


def draw_batches(
    job_file: Path, job_flags: Sequence[str], *, step: int, count: int, size: int, folder: Path
) -> None:
    """Draw `count` training images from global step `step` on, a sheet per step, and print their files.

    The stream itself prints which images stand in for unreadable ones.

    Raises:
        ConfigError: There is no such job, or a setting cannot work.
        DataError: The training set cannot be read.
    """
    job = parse(read(find_job(job_file)), job_flags)
    shards = job.data.open_train()
    stream = build_stream(job, shards, World(0, 1, torch.device("cpu")))
    last = step + -(-count // job.train.batch_size)
    with picture_folder(folder) as pictures:
        for number, parts in enumerate(stream.steps(step, last), start=step):
            samples = [sample for batch in parts for sample in samples_of(batch)][:count]
            count -= len(samples)
            title = _describe(job, number, stream.steps_per_epoch, samples)
            sheet = draw_samples(samples, shards.categories, size=size, title=title)
            file = pictures.save(sheet, f"{job.name}-step-{number:06}.png")
            print(f"{file}: {title}", flush=True)


def _describe(job: Job, step: int, steps_per_epoch: int, samples: Sequence[TrainingSample]) -> str:
    height, width = samples[0].image.shape[:2]
    epoch, place = divmod(step, steps_per_epoch)
    return f"{job.name}, seed {job.train.seed}, epoch {epoch}, step {place}: padded to {width}x{height}"
