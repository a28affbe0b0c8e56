"""Batches from shards: what their types promise, and what a slow literal reading gives."""

import hashlib
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import EvalStream, TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError

SMALL = AugmentConfig(sizes=(24, 32, 40), max_size=64, crop=True, crop_sizes=(32, 48), crop_range=(20, 30))


@pytest.fixture
def shards(make_coco, tmp_path):
    root, _ = make_coco(50)
    convert(Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.02, processes=1))
    opened = ShardSet.open(tmp_path / "shards")
    assert len(opened.manifest["shardlist"]) > 3
    return opened


def hashes_of(batch):
    """One hash per image of everything that training sees of it, batch padding included."""
    out = []
    for i, (boxes, labels) in enumerate(batch.targets.per_image()):
        h = hashlib.sha256(batch.images[i].numpy().tobytes())
        for tensor in (boxes, labels, batch.sizes_hw[i], batch.original_hw[i], batch.image_ids[i]):
            h.update(tensor.numpy().tobytes())
        out.append(h.hexdigest())
    return out


@pytest.mark.parametrize(("world", "passes"), [(3, 1), (3, 2), (5, 1), (7, 1), (1, 3)])
def test_a_batch_is_shared_by_workers_that_do_not_divide_it(shards, world, passes):
    whole = [
        batch.image_ids
        for (batch,) in TrainStream(shards, SMALL, StreamConfig(batch_size=8, seed=0)).steps(0, 3)
    ]
    streams = [
        TrainStream(
            shards, SMALL, StreamConfig(batch_size=8, seed=0, rank=r, world_size=world, accumulation=passes)
        )
        for r in range(world)
    ]
    shares = [[[batch.image_ids for batch in step] for step in stream.steps(0, 3)] for stream in streams]
    for step, ids in enumerate(whole):
        parts = [part for share in shares for part in share[step]]
        assert torch.equal(torch.cat(parts), ids)
        sizes = [sum(map(len, share[step])) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert min(map(len, parts)) >= 1


def test_a_batch_too_small_or_too_large_is_refused(shards):
    with pytest.raises(ConfigError, match=r"--train\.batch-size 8 leaves some of 9 workers without an image"):
        TrainStream(shards, SMALL, StreamConfig(batch_size=8, seed=0, world_size=9))
    with pytest.raises(ConfigError, match="in one of their 3 passes per step"):
        TrainStream(shards, SMALL, StreamConfig(batch_size=8, seed=0, world_size=3, accumulation=3))
    with pytest.raises(ConfigError, match="more than the 50 images"):
        TrainStream(shards, SMALL, StreamConfig(batch_size=51, seed=0))


def test_batches_hold_what_the_types_promise(shards):
    stream = TrainStream(shards, SMALL, StreamConfig(batch_size=8, seed=0))
    for (batch,) in stream.steps(0, stream.steps_per_epoch):
        assert batch.images.dtype == torch.uint8
        assert [side % 32 for side in batch.images.shape[2:]] == [0, 0]
        assert batch.image_ids.dtype == batch.targets.labels.dtype == torch.int64
        assert batch.valid.all()
        assert sum(batch.targets.counts) == len(batch.targets.labels)
        for image, (h, w), (boxes, labels) in zip(
            batch.images, batch.sizes_hw.tolist(), batch.targets.per_image(), strict=True
        ):
            assert image[:, h:].count_nonzero() == image[:, :, w:].count_nonzero() == 0
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([w, h, w, h])).all()
            assert set(labels.tolist()) <= {0, 1}


def test_evaluation_sees_every_image_once_whatever_the_number_of_workers(shards):
    def batches(world):
        streams = [
            EvalStream(shards, SMALL, StreamConfig(batch_size=4, rank=rank, world_size=world))
            for rank in range(world)
        ]
        assert len({len(stream) for stream in streams}) == 1
        read = [list(stream) for stream in streams]
        assert all(len(r) == len(s) for r, s in zip(read, streams, strict=True))
        interleaved = [read[k % world][k // world] for k in range(world * len(streams[0]))]
        return [b for b in interleaved if b.valid.any()], interleaved

    alone, _ = batches(1)
    ids = torch.cat([b.image_ids[b.valid] for b in alone])
    assert sorted(ids.tolist()) == list(range(10, 60))
    assert alone[-1].valid.tolist() == [True, True, False, False]
    for world in (2, 3, 8):
        counted, every = batches(world)
        assert [hashes_of(b) for b in counted] == [hashes_of(b) for b in alone]
        assert sum(int(b.valid.sum()) for b in every) == 50


def test_reading_stays_a_bounded_number_of_batches_ahead_and_ends_with_the_iterator(shards, monkeypatch):
    from qdet.data.loading import planned_stream as module

    loaded = []
    load = module.load_batch
    monkeypatch.setattr(module, "load_batch", lambda *args: (loaded.append(1), load(*args))[1])
    steps = TrainStream(shards, SMALL, StreamConfig(batch_size=8, seed=0, readers=2, prefetch=3)).steps(
        0, 1000
    )
    next(steps)
    time.sleep(0.3)
    assert len(loaded) == 4  # the one in hand and three ahead
    del steps
    assert not [t for t in threading.enumerate() if t.name.startswith("qdet-reader")]


def test_a_damaged_sample_is_named_where_it_is_consumed(shards):
    row = 30
    tar = shards.path / shards.manifest["shardlist"][int(shards.index.shard[row])]["url"]
    data = bytearray(tar.read_bytes())
    data[int(shards.index.image_offset[row]) + 200] ^= 1
    tar.write_bytes(data)
    reopened = ShardSet.open(shards.path)
    with pytest.raises(
        DataError, match=rf"{tar.name}, sample {int(shards.index.image_id[row]):012d}.*checksum"
    ):
        list(EvalStream(reopened, SMALL, StreamConfig(batch_size=4)))


def literal(image, boxes, view):
    """DETR's transforms on a Pillow image, one after the other, with the parameters of `view`."""

    def resize(image, boxes, hw):
        sx, sy = hw[1] / image.width, hw[0] / image.height
        return image.resize(hw[::-1], Image.Resampling.BILINEAR), boxes * np.array([sx, sy, sx, sy])

    def clip(boxes, labels, w, h):
        boxes = np.minimum(np.maximum(boxes, 0), [w, h, w, h])
        keep = [b[2] > b[0] and b[3] > b[1] for b in boxes]
        return boxes[keep], labels[keep]

    labels = np.arange(len(boxes))
    boxes, labels = clip(boxes, labels, image.width, image.height)
    image, boxes = resize(image, boxes, view.resized_hw)
    if view.window_tlhw is not None:
        top, left, h, w = view.window_tlhw
        image = image.crop((left, top, left + w, top + h))
        boxes, labels = clip(boxes - np.array([left, top, left, top]), labels, w, h)
        image, boxes = resize(image, boxes, view.final_hw)
    if view.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.array([[image.width - x2, y1, image.width - x1, y2] for x1, y1, x2, y2 in boxes])
    return np.asarray(image), boxes.reshape(-1, 4), labels


def test_real_images_and_boxes_are_those_of_a_literal_pillow_pipeline(coco_root, tmp_path):
    import json

    split = "val2017"
    convert(Conversion(coco=coco_root, split=split, out=tmp_path / "val", shard_megabytes=2, processes=1))
    content = json.loads((coco_root / "annotations" / f"instances_{split}.json").read_text())
    ids = sorted(c["id"] for c in content["categories"])
    files = {image["id"]: image["file_name"] for image in content["images"]}
    shards = ShardSet.open(tmp_path / "val")
    # Smaller than the published sizes: images shrink too, and the test is quick.
    augment = AugmentConfig(
        sizes=(320, 480, 640), max_size=800, crop=True, crop_sizes=(400, 500), crop_range=(384, 500)
    )
    stream = TrainStream(shards, augment, StreamConfig(batch_size=4, seed=1))
    plan, seen, cropped = stream.plan(0).whole(), 0, 0
    for step, (batch,) in enumerate(stream.steps(0, stream.steps_per_epoch)):
        for i, (boxes, labels) in enumerate(batch.targets.per_image()):
            view = plan.views.of(int(plan.rows[step, i]))
            image_id = int(batch.image_ids[i])
            mine = [a for a in content["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
            xyxy = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]).reshape(-1, 4)
            picture = Image.open(coco_root / split / files[image_id]).convert("RGB")
            assert batch.original_hw[i].tolist() == [picture.height, picture.width]
            pixels, expected, kept = literal(picture, xyxy, view)
            h, w = batch.sizes_hw[i].tolist()
            difference = batch.images[i, :, :h, :w].permute(1, 2, 0).numpy().astype(int) - pixels
            # Off by one per resize; OpenCV, which takes over where both sides grow, rounds otherwise.
            assert abs(difference).max() <= 3
            assert abs(difference).mean() < 0.4
            np.testing.assert_allclose(boxes.numpy(), expected, atol=1e-3)
            assert labels.tolist() == [ids.index(mine[k]["category_id"]) for k in kept]
            seen += 1
            cropped += view.window_tlhw is not None
    assert seen == 32
    assert cropped > 5


def test_crowds_are_for_evaluation_alone_and_images_without_objects_stay(make_coco, tmp_path):
    root, content = make_coco(8)
    convert(Conversion(coco=root, split="train", out=tmp_path / "s", processes=1))
    shards = ShardSet.open(tmp_path / "s")
    singles = {image["id"]: 0 for image in content["images"]}
    for annotation in content["annotations"]:
        singles[annotation["image_id"]] += 1 - annotation["iscrowd"]
    found = {}
    for (batch,) in TrainStream(shards, AugmentConfig(sizes=(48,)), StreamConfig(batch_size=4, seed=0)).steps(
        0, 2
    ):
        found |= dict(zip(batch.image_ids.tolist(), batch.targets.counts, strict=True))
    assert found == singles
    assert 0 in singles.values()
    truth = shards.ground_truth()["annotations"]
    assert sum(annotation["iscrowd"] for annotation in truth) == 2
    assert len(truth) == len(content["annotations"])
