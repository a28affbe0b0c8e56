"""The noise of objects: a function of seed, epoch and sample, whatever batch and worker a sample is in."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.denoising.config import DINO_DENOISING, DenoisingConfig
from qdet.data.denoising.draw import NoiseSource
from qdet.data.loading.planned_stream import EvalStream, TrainStream
from qdet.data.loading.sequential_stream import SequentialStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.locate import Access
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet

SMALL = AugmentConfig(sizes=(24, 32, 40), max_size=64, crop=True, crop_sizes=(32, 48), crop_range=(20, 30))
CONFIG = DenoisingConfig(kind="contrastive", queries=12)
GLOBAL = 8


def source(seed: int = 1, epoch: int = 2, config: DenoisingConfig = CONFIG) -> NoiseSource:
    return NoiseSource(config=config, seed=seed, epoch=epoch)


@settings(max_examples=50)
@given(
    order=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 9)), min_size=1, max_size=6),
    seed=st.integers(-(2**63), 2**64 - 1),
    epoch=st.integers(0, 1000),
)
def test_a_sample_has_the_same_noise_whatever_was_drawn_before(order, seed, epoch):
    one = source(seed, epoch)
    together = [one.draw(sample, count) for sample, count in order]
    for (sample, count), noise in reversed(list(zip(order, together, strict=True))):
        alone = source(seed, epoch).draw(sample, count)
        assert np.array_equal(alone.numbers, noise.numbers)
        assert np.array_equal(alone.objects, noise.objects)
        assert ((noise.numbers >= 0) & (noise.numbers < 1)).all()


def test_samples_epochs_and_seeds_have_noise_of_their_own():
    drawn = [
        source(seed, epoch).draw(sample, 3).numbers.tobytes()
        for seed in (0, 1)
        for epoch in (0, 1)
        for sample in (0, 1, 2**40)
    ]
    assert len(set(drawn)) == len(drawn)


def test_all_numbers_of_a_row_are_drawn_whatever_becomes_of_them():
    """How often labels change, and by how much boxes move, leaves the random numbers as they are."""
    quiet = dataclasses.replace(CONFIG, label_noise=0.0, box_noise=0.1)
    loud = dataclasses.replace(CONFIG, label_noise=1.0, box_noise=2.0)
    assert np.array_equal(source(config=quiet).draw(5, 3).numbers, source(config=loud).draw(5, 3).numbers)
    more = dataclasses.replace(CONFIG, queries=60)
    few, many = source().draw(5, 3).numbers, source(config=more).draw(5, 3).numbers
    assert len(many) > len(few)
    assert np.array_equal(many[: len(few)], few)


def test_numbers_are_uniform_and_signs_are_fair():
    numbers = source(config=DINO_DENOISING).draw(7, 90).numbers.reshape(-1, 10)
    many = np.concatenate(
        [numbers] + [source(epoch=e).draw(7, 90).numbers.reshape(-1, 10) for e in range(40)]
    )
    assert np.abs(many.mean(0) - 0.5).max() < 0.02
    assert np.abs((many < 0.25).mean(0) - 0.25).max() < 0.02
    correlation = np.corrcoef(many.T) - np.eye(10)
    assert np.abs(correlation).max() < 0.05


@pytest.fixture
def shards(make_coco, tmp_path):
    root, _ = make_coco(40)
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.02, processes=1))
    return ShardSet.open(tmp_path / "shards")


def noise_by_image(steps) -> dict[tuple[int, int], tuple]:
    """What every image of every step is noised with."""
    found = {}
    for number, step in enumerate(steps):
        for batch in step:
            each = [r * len(o) for r, o in zip(batch.noise.repetitions, batch.noise.objects, strict=True)]
            assert len(batch.noise.numbers) == sum(each)
            rows = batch.noise.numbers.split(each)
            for i, image in enumerate(batch.image_ids.tolist()):
                assert batch.noise.objects[i] == tuple(range(batch.targets.counts[i]))
                found[number, image] = (batch.noise.repetitions[i], rows[i].numpy().tobytes())
    return found


def steps_of(shards, first: int = 0, last: int = 7, *, world: int = 1, **how) -> list[list]:
    config = {"batch_size": GLOBAL, "seed": 5, "denoising": CONFIG, "world_size": world} | how
    streams = [TrainStream(shards, SMALL, StreamConfig(rank=r, **config)) for r in range(world)]
    by_rank = [list(stream.steps(first, last)) for stream in streams]
    return [[batch for rank in step for batch in rank] for step in zip(*by_rank, strict=True)]


@pytest.mark.parametrize(
    "how",
    [
        {"world": 2},
        {"world": 3},
        {"world": 4, "readers": 1},
        {"accumulation": 3},
        {"world": 2, "accumulation": 2, "readers": 3},
        pytest.param({"world": 2, "reader_kind": "processes"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_noise_does_not_depend_on_workers_accumulation_or_readers(shards, how):
    alone = noise_by_image(steps_of(shards))
    assert len(alone) == 7 * GLOBAL  # more than an epoch of five steps
    assert noise_by_image(steps_of(shards, **how)) == alone


def test_a_resumed_stream_draws_the_same_noise_and_every_epoch_its_own(shards):
    whole = noise_by_image(steps_of(shards, 0, 10))
    later = noise_by_image(steps_of(shards, 6, 10))
    assert {(step + 6, image): noise for (step, image), noise in later.items()} == {
        key: noise for key, noise in whole.items() if key[0] >= 6
    }
    by_epoch = [{}, {}]
    for (step, image), noise in whole.items():
        by_epoch[step // 5][image] = noise
    same = [image for image, noise in by_epoch[0].items() if by_epoch[1][image] == noise]
    assert all(by_epoch[0][image][1] == b"" for image in same)  # those without objects


def test_denoising_changes_neither_images_nor_objects(shards):
    plain = steps_of(shards, 0, 3, denoising=DenoisingConfig())
    for (a,), (b,) in zip(plain, steps_of(shards, 0, 3), strict=True):
        assert a.noise is None
        assert b.noise is not None
        assert a.images.equal(b.images)
        assert a.targets.boxes_xyxy.equal(b.targets.boxes_xyxy)
        assert a.image_ids.equal(b.image_ids)


def test_evaluation_has_no_noise(shards):
    config = StreamConfig(batch_size=4, denoising=CONFIG)
    assert all(batch.noise is None for batch in EvalStream(shards, SMALL, config))


def test_a_substitute_has_the_noise_of_its_own_sample(shards, tmp_path):
    before = noise_by_image(steps_of(shards, 0, 5))
    row = 11
    tar = tmp_path / "shards" / shards.manifest["shardlist"][int(shards.index.shard[row])]["url"]
    data = bytearray(tar.read_bytes())
    data[int(shards.index.image_offset[row]) + 40] ^= 0xFF
    tar.write_bytes(data)
    steps = steps_of(ShardSet.open(tmp_path / "shards"), 0, 5, world=2, max_bad=3)
    (batch,) = [batch for step in steps for batch in step if batch.substitutes]
    (substitute,) = batch.substitutes
    config = NoiseSource(config=CONFIG, seed=5, epoch=0)
    place = batch.image_ids.tolist().index(substitute.image_id)
    stands_in = int(np.flatnonzero(shards.index.image_id == substitute.image_id)[0])
    wanted = config.draw(stands_in, batch.targets.counts[place])
    each = [r * len(o) for r, o in zip(batch.noise.repetitions, batch.noise.objects, strict=True)]
    assert batch.noise.numbers.split(each)[place].equal(torch.from_numpy(wanted.numbers.reshape(-1, 10)))
    after = noise_by_image(steps)
    others = before.keys() & after.keys() - {key for key in after if key[1] == substitute.image_id}
    assert len(others) >= 38
    assert all(after[key] == before[key] for key in others)


def test_samples_read_in_sequence_have_noise_by_their_key(shards, tmp_path):
    def by_image(world: int) -> dict[int, tuple]:
        found = {}
        for rank in range(world):
            config = StreamConfig(batch_size=8, seed=3, rank=rank, world_size=world, denoising=CONFIG)
            dataset = SequentialSet.open(str(tmp_path / "shards"), Access())
            stream = SequentialStream(dataset, SMALL, config)
            for (_, image), noise in noise_by_image(stream.steps(0, 5)).items():
                found[image] = noise
        return found

    alone, shared = by_image(1), by_image(2)
    both = alone.keys() & shared.keys()
    assert len(both) > 20
    assert all(alone[image] == shared[image] for image in both)
