"""Shards read from front to back: equal steps for any number of workers, and damage by its name."""

import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.sequential_stream import SequentialStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.categories import Categories
from qdet.data.shards.locate import Access, locate
from qdet.data.shards.manifest import Listed
from qdet.data.shards.sequential_read import files_of
from qdet.data.shards.sequential_set import SequentialSet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError

SMALL = AugmentConfig(sizes=(32, 40, 48), max_size=64, pad_multiple=8)


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Allows `cat`, and names the classes that commands do not name."""
    names = tmp_path / "categories.json"
    names.write_text('[{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]')
    return Access(cache=str(tmp_path / "cache"), categories=str(names), allow_pipes=("cat",))


def _stream(
    source: str | Path, access: Access, *, images: int | None = None, shuffle: int = 1000, **how
) -> SequentialStream:
    dataset = SequentialSet.open(str(source), access, images=images)
    settings: dict[str, Any] = {"batch_size": 8, "seed": 3} | how
    return SequentialStream(dataset, SMALL, StreamConfig(**settings), shuffle=shuffle)


def _ids(steps) -> list[int]:
    return [i for step in steps for batch in step for i in batch.image_ids.tolist()]


def _seen(steps) -> dict[int, tuple[int, int, int]]:
    """How every image was seen: its size and its pixels."""
    return {
        int(image_id): (int(size[0]), int(size[1]), int(image[:, : size[0], : size[1]].long().sum()))
        for step in steps
        for batch in step
        for image_id, size, image in zip(batch.image_ids, batch.sizes_hw, batch.images, strict=True)
    }


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_ranks_make_equal_steps_and_a_pass_gives_every_image_once(kind, world, shards_folder, access, capsys):
    if kind == "folder":
        source, images = shards_folder, None
    else:
        source = "::".join(f"pipe:cat {tar}" for tar in sorted(shards_folder.glob("*.tar")))
        images = 24
    streams = [
        _stream(source, access, images=images, rank=rank, world_size=world, accumulation=2, shuffle=1)
        for rank in range(world)
    ]
    assert {stream.steps_per_epoch for stream in streams} == {3}
    epochs = [list(stream.steps(0, 7)) for stream in streams]  # more than two epochs
    assert {len(steps) for steps in epochs} == {7}
    for step in zip(*epochs, strict=True):
        assert sum(len(batch) for rank in step for batch in rank) == 8
        assert all(len(rank) == 2 for rank in step)
    assert set(_ids(step for rank in epochs for step in rank)) == set(range(10, 34))
    said = capsys.readouterr().out
    assert said.count("Not promised: which images a step or an epoch holds") == 1  # rank 0 alone
    assert f"{len(streams[0].dataset.shards)} shards are read from front to back by {world} workers" in said


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**63), st.integers(0, 99))
def test_all_ranks_together_read_every_part_of_every_shard_once_per_pass(shards, world, seed, first):
    """Dealt out as by one dealer to `world` players, whether there are more shards or more ranks."""
    dataset = SequentialSet(
        source="",
        shards=tuple(Listed(str(k)) for k in range(shards)),
        categories=Categories(("a",), (1,)),
        digest="",
        images=100,
        access=Access(),
    )
    streams = [
        SequentialStream(dataset, SMALL, StreamConfig(batch_size=16, seed=seed, rank=rank, world_size=world))
        for rank in range(world)
    ]
    stride = -(-world // shards)
    passes, each = 3 * world, shards * stride
    parts = [stream._parts(first) for stream in streams]
    dealt = [next(parts[turn % world]) for turn in range(passes * each)]
    for begin in range(0, len(dealt), each):
        found = sorted((part.shard.name, part.first) for part in dealt[begin : begin + each])
        assert found == sorted((str(k), j) for k in range(shards) for j in range(stride))
    assert {part.stride for part in dealt} == {stride}
    assert len(dealt[:world]) == len({(part.shard.name, part.first) for part in dealt[:world]})


def test_fewer_shards_than_ranks_share_their_samples(make_coco, tmp_path, access):
    root, _ = make_coco(24)
    convert(Conversion(coco=root, split="train", out=tmp_path / "s", processes=1))
    streams = [_stream(tmp_path / "s", access, rank=rank, world_size=4, shuffle=1) for rank in range(4)]
    assert len(streams[0].dataset.shards) == 1
    received = Counter(_ids(step for stream in streams for step in stream.steps(0, 3)))
    assert received == Counter(range(10, 34))


def test_an_image_is_augmented_alike_on_any_rank_at_any_step_of_an_epoch(shards_folder, access):
    one = _stream(shards_folder, access, shuffle=1)
    first = _seen(one.steps(0, 3))
    for rank in range(3):
        other = _stream(shards_folder, access, rank=rank, world_size=3, batch_size=12, shuffle=50, readers=3)
        for image_id, seen in _seen(other.steps(0, 2)).items():
            assert seen == first.get(image_id, seen)
    assert _seen(one.steps(3, 6)) != first  # the next epoch sees them differently
    sizes = {(h, w) for h, w, _ in first.values()}
    assert len(sizes) > 3


def test_images_and_boxes_are_those_of_reading_by_offset(shards_folder, access):
    """Without chance, both ways of reading give the same pixels and boxes for every image."""
    plain = AugmentConfig(sizes=(48,), max_size=64, flip=0.0, pad_multiple=8)
    dataset = SequentialSet.open(str(shards_folder), access)
    by_offset = TrainStream(ShardSet.open(shards_folder), plain, StreamConfig(batch_size=8, seed=0))
    in_order = SequentialStream(dataset, plain, StreamConfig(batch_size=8, seed=0), shuffle=1)
    found = [_by_id(stream.steps(0, 3)) for stream in (by_offset, in_order)]
    assert set(found[0]) == set(found[1]) == set(range(10, 34))
    for image_id, expected in found[0].items():
        assert all(map(torch.equal, expected, found[1][image_id])), image_id


def _by_id(steps):
    found = {}
    for step in steps:
        for batch in step:
            objects = batch.targets.per_image()
            for k, image_id in enumerate(batch.image_ids.tolist()):
                h, w = batch.sizes_hw[k].tolist()
                found[image_id] = (batch.images[k, :, :h, :w], *objects[k], batch.original_hw[k])
    return found


def test_resuming_starts_at_a_new_position_and_says_so(shards_folder, access, capsys):
    stream = _stream(shards_folder, access)
    whole = list(stream.steps(0, 6))
    assert "freshly shuffled" not in capsys.readouterr().out
    again = list(stream.steps(4, 6))
    assert (
        "resumes at step 4 with freshly shuffled shards: which images came before is not known"
        in capsys.readouterr().out
    )
    assert len(again) == 2
    assert _ids(again) != _ids(whole[4:])
    assert _ids(again) == _ids(stream.steps(4, 6))


def test_processes_read_the_same(shards_folder, access):
    threads = _stream(shards_folder, access)
    processes = _stream(shards_folder, access, reader_kind="processes", readers=1)
    assert _seen(threads.steps(0, 2)) == _seen(processes.steps(0, 2))


def test_a_server_is_read_sequentially_and_retried_from_where_it_broke_off(shards_folder, serve, access):
    server = serve(shards_folder)
    tars = sorted(f"/{file.name}" for file in shards_folder.glob("*.tar"))
    server.faults[tars[0]] = ["cut", "500"]
    received = _ids(_stream(server.url, access, shuffle=1).steps(0, 3))
    assert sorted(received) == list(range(10, 34))
    assert server.gets[tars[0]] >= 3
    assert not (access.folder / "shards").exists()  # nothing is kept
    assert server.gets["/index.npz"] == 0


CUTS = ["within an image", "at a member", "within a header", "before its end"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_shard_that_is_cut_off_is_named(cut, kind, shards_folder, access):
    """Also where tarfile takes the cut for an end, which webdataset passes over without a word."""
    index = ShardSet.open(shards_folder).index
    tar = sorted(shards_folder.glob("*.tar"))[0]
    data = tar.read_bytes()
    member = int(index.image_offset[1]) - 512
    length = {
        "within an image": int(index.image_offset[1]) + 100,
        "at a member": member,
        "within a header": member + 200,
        "before its end": len(data.rstrip(b"\0")) // 512 * 512 + 512,
    }[cut]
    tar.write_bytes(data[:length])
    source = f"pipe:cat {tar}" if kind == "pipe" else str(tar)
    with pytest.raises(DataError, match=rf"{tar.name} is (truncated or )?damaged .*after member 0000000"):
        list(files_of(Listed(source), ("cat",)))
    stream = _stream(source, access, images=8)
    with pytest.raises(DataError, match=tar.name):
        list(stream.steps(0, 9))


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_of_a_listed_shard_is_noticed_by_its_end(seed, shards_folder, access):
    tar = sorted(shards_folder.glob("*.tar"))[seed % 2]
    data = bytearray(tar.read_bytes())
    data[np.random.default_rng(seed).integers(len(data))] ^= 0x10
    tar.write_bytes(data)
    with pytest.raises(DataError, match=tar.name):
        list(_stream(shards_folder, access).steps(0, 40))


def test_an_unreadable_sample_is_left_out_within_the_budget(shards_folder, access):
    shards = ShardSet.open(shards_folder)
    tar = shards_folder / shards.manifest["shardlist"][0]["url"]
    data = bytearray(tar.read_bytes())
    data[int(shards.index.image_offset[0])] = 0  # no JPEG any more
    middle = int(shards.index.image_offset[2]) + 20
    data[middle : middle + 40] = bytes(40)  # still one by its header, and not to be decoded
    tar.write_bytes(data)
    source = f"pipe:cat {tar}"
    bad = {int(shards.index.image_id[row]) for row in (0, 2)}
    with pytest.raises(DataError, match=rf"{tar.name}, sample 0000000"):
        list(_stream(source, access, images=8, batch_size=4).steps(0, 4))
    stream = _stream(source, access, images=8, batch_size=4, max_bad=2)
    steps = list(stream.steps(0, 6))
    assert not bad & set(_ids(steps))
    assert set(stream.bad.reasons) == bad
    assert all(tar.name in why for why in stream.bad.reasons.values())
    assert {len(batch) for step in steps for batch in step} == {4}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "exit status 1"),
        ("{python} -c 'import sys; sys.exit(7)'", "exit status 7"),
        ("cat {tar} /nowhere", "exit status 1"),
        ("no-such-command {tar}", "no-such-command cannot be run"),
        ("echo hello", "is damaged at or after its first member"),
    ],
)
def test_a_command_that_fails_is_named(command, said, shards_folder):
    tar = sorted(shards_folder.glob("*.tar"))[0]
    name = "pipe:" + command.format(tar=tar, python=sys.executable)
    allowed = ("false", sys.executable, "cat", "no-such-command", "echo")
    with pytest.raises(DataError, match=said) as error:
        list(files_of(Listed(name), allowed))
    assert str(error.value).startswith(name)


def test_pipe_commands_are_not_interpreted_by_a_shell(shards_folder, tmp_path):
    tar = sorted(shards_folder.glob("*.tar"))[0]
    mark = tmp_path / "mark"
    for tail in (f"; touch {mark}", f"&& touch {mark}", f"| tee {mark}", f"> {mark}", f"$(touch {mark})"):
        with pytest.raises(DataError, match="exit status 1"):  # `cat` knows no file of that name
            list(files_of(Listed(f"pipe:cat {tar} {tail}"), ("cat",)))
        assert not mark.exists()


def test_a_command_that_never_ends_is_stopped_with_its_reader(shards_folder):
    tar = sorted(shards_folder.glob("*.tar"))[0]
    endless = (
        f"import sys, time; sys.stdout.buffer.write(open({str(tar)!r}, 'rb').read() * 60); "
        "sys.stdout.flush(); time.sleep(999)"
    )
    files = files_of(Listed(f"pipe:{sys.executable} -c {shlex.quote(endless)}"), (sys.executable,))
    assert next(files)["fname"]
    files.close()  # would wait for 999 seconds


ALLOWED = [
    ("cat x.tar", ("cat",), True),
    ("curl -sf http://h/x.tar", ("curl -sf",), True),
    ("curl http://h/x.tar", ("curl -sf",), False),
    ("catastrophe x.tar", ("cat",), False),
    ("'cat' x.tar", ("cat",), True),
    ("cat x.tar", (), False),
    ("/bin/cat x.tar", ("cat",), False),
]


@pytest.mark.parametrize(("command", "allowed", "may"), ALLOWED)
def test_commands_are_allowed_by_their_first_words(command, allowed, may):
    settings = {"train": f"pipe:{command}", "reading": "sequential", "allow_pipes": allowed}
    if may:
        assert DataConfig(**settings).train == f"pipe:{command}"
    else:
        with pytest.raises(ConfigError, match=r"unless the job allows them by name.*--data\.allow-pipes"):
            DataConfig(**settings)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": "pipe:cat x", "allow_pipes": ("cat",)}, "give --data.reading sequential"),
        (
            {"val": "pipe:cat x", "allow_pipes": ("cat",), "reading": "sequential"},
            "evaluation reads by offset",
        ),
        ({"allow_pipes": (" ",)}, "--data.allow-pipes holds an empty command"),
        ({"train": "pipe:cat 'x", "allow_pipes": ("cat",), "reading": "sequential"}, "quotes do not pair"),
        ({"samples": 0}, "--data.samples must be at least 1"),
        ({"shuffle_buffer": 0}, "--data.shuffle-buffer must be at least 1"),
        ({"max_pixels": 0}, "--data.max-pixels must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_by_their_flag(wrong, said):
    with pytest.raises(ConfigError, match=said):
        DataConfig(**wrong)


def test_missing_categories_and_counts_are_asked_for_by_flag(shards_folder, access):
    tar = sorted(shards_folder.glob("*.tar"))[0]
    with pytest.raises(ConfigError, match=r"what its classes are called.*--data\.categories"):
        SequentialSet.open(f"pipe:cat {tar}", Access(allow_pipes=("cat",)), images=4)
    with pytest.raises(ConfigError, match=r"how many images it has.*--data\.samples"):
        SequentialSet.open(f"pipe:cat {tar}", access)
    with pytest.raises(ConfigError, match="not run unless the job allows"):
        SequentialSet.open("pipe:dd if=x", access, images=4)
    known = SequentialSet.open(str(shards_folder), access)
    with pytest.raises(ConfigError, match=r"mosaic and .* need other images"):
        SequentialStream(known, AugmentConfig(mosaic=0.5), StreamConfig(batch_size=4, seed=0))
    assert (len(known), known.digest) == (24, ShardSet.open(shards_folder).digest)
    assert len(SequentialSet.open(str(shards_folder), access, images=5)) == 5


def test_shards_without_a_sample_end_the_search(tmp_path, access):
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    stream = _stream(tmp_path / "x.tar", access, images=8)
    with pytest.raises(DataError, match=r"x\.tar has no samples"):
        next(stream.steps(0, 1))


def test_locate_says_what_is_not_there(tmp_path, serve, access):
    server = serve(tmp_path)
    for nothing in (f"{server.url}/nothing", str(tmp_path / "nothing")):
        with pytest.raises(DataError, match=r"nothing holds no shards.*Check the address.*data_prep"):
            locate(nothing, access)
    for pattern in (f"{server.url}/a-{{0..3}}.tar", f"{tmp_path}/a-{{0..3}}.tar"):
        with pytest.raises(DataError, match=r"a-0\.tar is not there"):
            locate(pattern, access).check_reachable()


def test_images_that_the_pipeline_leaves_out_are_skipped(shards_folder, access):
    """mmdetection trains on no image without objects; a set without any is an error, not a wait."""
    shards = ShardSet.open(shards_folder)
    empty = set(shards.index.image_id[shards.index.boxes == 0].tolist())
    dataset = SequentialSet.open(str(shards_folder), access)
    mmdet = replace(SMALL, pipeline="mmdet")
    stream = SequentialStream(dataset, mmdet, StreamConfig(batch_size=8, seed=3), shuffle=1)
    seen = set(_ids(stream.steps(0, 9)))
    small = {
        i
        for i, h, w in zip(shards.index.image_id, shards.index.height, shards.index.width, strict=True)
        if min(h, w) < 32
    }
    assert seen == set(shards.index.image_id.tolist()) - empty - {int(i) for i in small}
    nothing = replace(SMALL, pipeline="mmdet")
    stream = SequentialStream(dataset, nothing, StreamConfig(batch_size=8, seed=3), shuffle=1)
    stream._is_trained_on = lambda sample: False
    with pytest.raises(DataError, match="leaves out those without"):
        next(stream.steps(0, 1))


def test_a_worker_pads_each_pass_alone(shards_folder, access):
    for pad in ("global", "rank"):
        stream = _stream(shards_folder, access, accumulation=4, shuffle=1, pad=pad)
        step = next(stream.steps(0, 1))
        largest = [tuple((-(-batch.sizes_hw.max(dim=0).values // 8) * 8).tolist()) for batch in step]
        shapes = [tuple(batch.images.shape[2:]) for batch in step]
        if pad == "rank":
            assert shapes == largest
        else:
            assert set(shapes) == {tuple(np.max(largest, axis=0).tolist())}
