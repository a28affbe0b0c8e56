"""Reading ahead, by threads and by processes: order, bounds, errors, endings, and memory used again."""

import gc
import os
import threading
import time
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from qdet.data.augment import AugmentConfig
from qdet.data.loading import buffers
from qdet.data.loading.buffers import image_memory
from qdet.data.loading.planned_stream import EvalStream, TrainStream
from qdet.data.loading.prefetch import read_ahead
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError

MIXED = AugmentConfig(
    sizes=(48, 64), max_size=96, mosaic=0.5, mosaic_size=40, mixup=0.5, photometric=True, resize="opencv"
)


def slow_square(number):
    time.sleep(0.02 * (3 - number % 3))  # later ones are done first
    return number**2


def fail(number):
    if number == 5:
        raise DataError("shard 5 is broken")
    return number


def vanish(number):
    os._exit(1) if number else None


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_results_come_in_order_with_errors_in_their_place(kind):
    loads = [partial(slow_square, k) for k in range(7)]
    readers = 3 if kind == "threads" else 2  # a process takes seconds to start
    assert list(read_ahead(loads, readers=readers, ahead=4, kind=kind)) == [k**2 for k in range(7)]
    results = read_ahead([partial(fail, k) for k in range(9)], readers=1, ahead=3, kind=kind)
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="shard 5 is broken"):
        next(results)


def test_a_killed_reader_process_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match=r"--data\.reader-kind threads"):
        list(read_ahead([partial(vanish, k) for k in range(3)], readers=1, ahead=1, kind="processes"))


def test_prefetching_is_bounded_and_ends_with_its_consumer():
    made = []
    results = read_ahead((partial(made.append, k) for k in range(100)), readers=2, ahead=3)
    next(results)
    time.sleep(0.2)
    assert sorted(made) == [0, 1, 2, 3]
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("qdet-reader")]


def test_the_follow_up_function_runs_in_a_thread_of_this_process():
    def where(number):
        return number, os.getpid(), threading.current_thread() is threading.main_thread()

    made = list(read_ahead([partial(fail, 1)], readers=1, ahead=1, kind="processes", then=where))
    assert made == [(1, os.getpid(), False)]


def test_processes_read_the_same_batches_as_threads(shards_folder):
    shards = ShardSet.open(shards_folder)

    def read(**how):
        stream = TrainStream(shards, MIXED, StreamConfig(batch_size=6, seed=1, **how))
        return [batch for batches in stream.steps(1, 6) for batch in batches]

    one, other = read(readers=1), read(readers=2, reader_kind="processes")
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.image_ids, b.image_ids)
        assert torch.equal(a.targets.boxes_xyxy, b.targets.boxes_xyxy)
        assert a.targets.counts == b.targets.counts
        assert a.images.is_contiguous(memory_format=torch.channels_last)
    assert len({a.targets.counts for a in one}) > 1


def test_evaluation_resizes_as_training_does(shards_folder):
    shards = ShardSet.open(shards_folder)
    small = {
        how: next(
            iter(EvalStream(shards, AugmentConfig(sizes=(16,), resize=how), StreamConfig(batch_size=4)))
        )
        for how in ("pillow", "opencv")
    }
    assert torch.equal(small["pillow"].image_ids, small["opencv"].image_ids)
    assert not torch.equal(small["pillow"].images, small["opencv"].images)
    views = TrainStream(shards, MIXED, StreamConfig(batch_size=4, seed=0)).plan(0).whole().views
    assert views.of(0).resize == "opencv"


def test_batch_memory_is_reused_only_when_nothing_refers_to_it():
    buffers._free.clear()
    pixels = image_memory(2, 8, 8)
    address = pixels.ctypes.data
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    row = images[1, 0, 0]
    row.fill_(9)
    del pixels, images
    gc.collect()
    held = image_memory(2, 8, 8)
    assert held.ctypes.data != address
    held[:] = 3
    assert (row == 9).all()
    del row
    gc.collect()
    assert image_memory(1, 8, 8).ctypes.data == address


def test_too_small_buffers_are_dropped_and_few_are_kept():
    buffers._free.clear()
    small = [image_memory(1, 4, 4) for _ in range(3)]
    small.clear()
    gc.collect()
    assert len(buffers._free) == 3
    assert image_memory(1, 64, 64).shape == (1, 64, 64, 3)
    assert len(buffers._free) == 1  # the larger one, back already
    many = [image_memory(1, 4, 4) for _ in range(3 * buffers.KEPT)]
    many[0][:] = np.arange(48).reshape(1, 4, 4, 3)
    many.clear()
    gc.collect()
    assert len(buffers._free) == buffers.KEPT
