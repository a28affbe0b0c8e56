"""A dataset as training sees it: sheets hold the bytes of the stream's own batches."""

import numpy as np
import pytest
from PIL import Image

from qdet.__main__ import main
from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.visualize.samples import draw_samples, resample, samples_of

AUGMENT = AugmentConfig(sizes=(40, 64), max_size=64, mosaic=0.3, mosaic_size=32, mixup=0.3, photometric=True)
JOB = """
from qdet.data.augment import AugmentConfig
from qdet.job import DataConfig, Job, TrainConfig

job = Job(
    name="small",
    data=DataConfig(
        train={train!r},
        augment=AugmentConfig(
            sizes=(40, 64), max_size=64, mosaic=0.3, mosaic_size=32, mixup=0.3, photometric=True
        ),
        by_size=False,
    ),
    train=TrainConfig(batch_size=6, workers=3),
)
"""


def batch_at(folder, step: int):
    stream = TrainStream(ShardSet.open(folder), AUGMENT, StreamConfig(batch_size=6), by_size=False)
    ((batch,),) = stream.steps(step, step + 1)
    return batch


def cells_of(sheet: np.ndarray, count: int, side: int, *, titled: bool) -> list[np.ndarray]:
    """Cut the images out of a sheet whose cells are squares with a caption."""
    gap, bar = 20, 22
    columns = (sheet.shape[1] - gap) // (side + gap)
    top = gap + 36 * titled
    places = [divmod(i, columns) for i in range(count)]
    return [
        sheet[top + row * (side + bar + gap) :, gap + column * (side + gap) :][:side, :side]
        for row, column in places
    ]


def test_samples_are_the_streams_bytes_and_targets(demo_shards):
    batch = batch_at(demo_shards / "train", 5)
    samples = samples_of(batch)
    assert [s.image_id for s in samples] == batch.image_ids.tolist()
    for i, (sample, (boxes, labels)) in enumerate(zip(samples, batch.targets.per_image(), strict=True)):
        assert (
            np.ascontiguousarray(sample.image).tobytes()
            == batch.images[i].permute(1, 2, 0).contiguous().numpy().tobytes()
        )
        assert (sample.boxes_xyxy == boxes.numpy()).all()
        assert (sample.labels == labels.numpy()).all()
        assert sample.size_hw == tuple(batch.sizes_hw[i].tolist())


def test_a_sheet_shows_every_byte_of_the_images_unchanged_but_for_boxes_and_padding(demo_shards):
    batch = batch_at(demo_shards / "train", 1)
    samples = [
        s.__class__(**{**vars(s), "boxes_xyxy": s.boxes_xyxy[:0], "labels": s.labels[:0]})
        for s in samples_of(batch)
    ]
    sheet = draw_samples(samples, ShardSet.open(demo_shards / "train").categories, size=150)
    assert {s.size_hw for s in samples} == {(40, 40), (64, 64)}
    for i, cell in enumerate(cells_of(sheet, 6, 128, titled=False)):
        height, width = samples[i].size_hw
        expected = batch.images[i].permute(1, 2, 0).numpy()[:height, :width]
        for dy in (0, 1):
            for dx in (0, 1):
                assert (cell[dy : 2 * height : 2, dx : 2 * width : 2] == expected).all()
        if (height, width) == (40, 40):
            assert set(np.unique(cell[80:].reshape(-1, 3), axis=0)[:, 0].tolist()) == {0, 70}  # hatched


def test_boxes_are_drawn_around_the_targets(demo_shards):
    batch = batch_at(demo_shards / "train", 1)
    sample = next(s for s in samples_of(batch) if len(s.labels))
    sheet = draw_samples([sample], ShardSet.open(demo_shards / "train").categories, size=640)
    (cell,) = cells_of(sheet, 1, 640, titled=False)
    plain = resample(sample.image, 640)[0]
    changed = (cell != plain).any(-1)
    left, top, right, bottom = (10 * sample.boxes_xyxy[0]).clip(3, 636)
    assert changed[round((top + bottom) / 2), round(left) - 2 : round(left) + 3].any()
    assert changed[round((top + bottom) / 2), round(right) - 2 : round(right) + 3].any()


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((64, 48), 200, (192, 144)), ((64, 48), 64, (64, 48)), ((80, 160), 40, (20, 40))],
)
def test_images_are_enlarged_by_whole_numbers_and_reduced_to_the_size(shape, size, expected):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    shown, scale = resample(image, size)
    assert shown.shape == (*expected, 3)
    assert scale == expected[0] / shape[0]
    if scale >= 1:
        assert (shown[:: int(scale), :: int(scale)] == image).all()


@pytest.fixture
def draw(demo_shards, tmp_path, capsys):
    """Return a function that runs the command into a folder and returns its pictures and what it printed."""
    job = tmp_path / "small.py"
    job.write_text(JOB.format(train=str(demo_shards / "train")))

    def run(folder: str, *args, flags=()):
        code = 0
        try:
            main(
                [
                    "visualize",
                    "--job",
                    str(job),
                    "--to",
                    str(tmp_path / folder),
                    *map(str, args),
                    "--",
                    *flags,
                ]
            )
        except SystemExit as left:
            code = left.code
        files = sorted((tmp_path / folder).glob("*.png"))
        return code, {file.name: file.read_bytes() for file in files}, capsys.readouterr()

    return run


def test_the_command_draws_the_batches_of_a_job_the_same_every_time(draw, demo_shards, tmp_path):
    code, first, printed = draw("a", "--count", 8, "--step", 7, "--panel", 64)
    assert code == 0
    assert list(first) == ["small-step-000007.png", "small-step-000008.png"]
    assert "seed 0, epoch 0, step 7: padded to 64x64" in printed.out
    assert (
        draw(
            "b",
            "--count",
            8,
            "--step",
            7,
            "--panel",
            64,
            flags=["--train.workers", "2", "--data.readers", "1"],
        )[1]
        == first
    )
    other = draw("c", "--count", 8, "--step", 7, "--panel", 64, flags=["--train.seed", "1"])[1]
    assert all(other[name] != first[name] for name in first)
    batch = batch_at(demo_shards / "train", 7)
    sheet = np.asarray(Image.open(tmp_path / "a" / "small-step-000007.png"))
    for i, cell in enumerate(cells_of(sheet, 6, 64, titled=True)):
        height, width = batch.sizes_hw[i].tolist()
        same = (cell[:height, :width] == batch.images[i].permute(1, 2, 0).numpy()[:height, :width]).all(-1)
        assert same.all() if not batch.targets.counts[i] else same.mean() > 0.2


def test_the_command_names_a_substitute_and_what_it_stands_in_for(draw, demo_shards, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    shards = ShardSet.open(demo_shards / "train")
    for file in (demo_shards / "train").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    data = shards.read_image(3)
    (tar,) = broken.glob("*.tar")
    content = tar.read_bytes()
    assert content.count(data) == 1
    tar.write_bytes(content.replace(data, bytes(len(data))))
    flags = ["--data.train", str(broken), "--data.max-bad", "5"]
    code, pictures, printed = draw("d", "--count", 48, flags=flags)
    assert code == 0
    assert len(pictures) == 8
    assert f"stands in for {int(shards.index.image_id[3])}: " in printed.out
    code, _, printed = draw("e", "--count", 48, flags=flags[:2])
    assert code == 1
    assert shards.key_of(3) in printed.err
