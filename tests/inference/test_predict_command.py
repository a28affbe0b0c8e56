"""`qdet predict`: every source, drawings, COCO results, one bad file among good ones."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from qdet.__main__ import main
from qdet.data.shards.shard_set import ShardSet
from qdet.inference.video import VideoReader, VideoWriter


@pytest.fixture
def predict(run, capfd):
    """Run the command; returns its exit code and what it printed on both streams."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = 0
        try:
            main(["predict", str(run), *map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def as_results(model, files: list[Path], **options):
    found = model.predict(files, **{"score": 0.0} | options)
    return [one for image, file in zip(found, files, strict=True) for one in image.to_coco(int(file.stem))]


def sort(results):
    return sorted(results, key=lambda r: (r["image_id"], -r["score"], r["category_id"], r["bbox"]))


def test_a_folder_is_drawn_and_written_as_coco_results(predict, model, files, tmp_path):
    code, out, err = predict(
        files[0].parent, "--to", tmp_path / "drawn", "--json", tmp_path / "r.json", "--score", 0.1
    )
    assert code == 0, err
    assert [line.partition(": ")[0] for line in sorted(out.splitlines())] == [str(file) for file in files]
    assert "averaged weights after step 4" in err
    assert sort(json.loads((tmp_path / "r.json").read_text())) == sort(as_results(model, files, score=0.1))
    for file, found in zip(files, model.predict(files, score=0.1), strict=True):
        with Image.open(tmp_path / "drawn" / file.name) as drawn:
            assert np.array_equal(np.asarray(drawn), np.asarray(found.draw(score=0.1)))


def test_results_hold_everything_where_no_score_is_asked_for(predict, model, files, tmp_path):
    assert predict(*files, "--json", tmp_path / "r.json")[0] == 0
    assert sort(json.loads((tmp_path / "r.json").read_text())) == sort(as_results(model, files))


def test_pycocotools_reads_the_results(predict, demo_shards, tmp_path):
    assert predict(demo_shards / "val", "--json", tmp_path / "r.json")[0] == 0
    truth = COCO()
    truth.dataset = ShardSet.open(demo_shards / "val").ground_truth()
    truth.dataset["categories"] = [{"id": i, "name": str(i)} for i in range(20)]
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "r.json")).imgs) == len(truth.imgs)


def test_shards_and_the_files_they_were_made_of_give_the_same(predict, demo_shards, tmp_path):
    predict(demo_shards / "val", "--json", tmp_path / "shards.json")
    predict(demo_shards / "coco" / "val", "--json", tmp_path / "files.json")
    shards, files = (sort(json.loads((tmp_path / f"{n}.json").read_text())) for n in ("shards", "files"))
    # The dataset's order is another, hence its batches: sums may differ in the last digit.
    assert [(one["image_id"], one["category_id"]) for one in shards] == [
        (one["image_id"], one["category_id"]) for one in files
    ]
    for one, other in zip(shards, files, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)


def test_bad_files_do_not_stop_the_others(predict, files, tmp_path):
    files[1].write_bytes(b"")
    files[3].write_bytes(files[3].read_bytes()[:50])
    code, out, err = predict(*files, tmp_path / "nowhere.jpg", "--json", tmp_path / "r.json")
    assert code == 1
    assert len(out.splitlines()) == len(files) - 2
    for bad in (files[1], files[3], tmp_path / "nowhere.jpg"):
        assert f"not predicted: {bad}" in err
    ids = {one["image_id"] for one in json.loads((tmp_path / "r.json").read_text())}
    assert ids == {0, 2, 4, 5, 6}


def test_patterns_and_files_of_the_same_name(predict, files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / files[0].name).write_bytes(files[1].read_bytes())
    code, _, err = predict(
        f"{files[0].parent}/00[0-2].png",
        other / files[0].name,
        "--to",
        tmp_path / "d",
        "--json",
        tmp_path / "r.json",
    )
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        "000-2.png",
        "000.png",
        "001.png",
        "002.png",
    ]
    ids = {one["image_id"] for one in json.loads((tmp_path / "r.json").read_text())}
    assert ids == {1, 2, str(files[0]), str(other / files[0].name)}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_video_is_predicted_frame_by_frame(predict, model, arrays, tmp_path, name):
    video = write_video(tmp_path / name, arrays)
    code, out, err = predict(video, "--to", tmp_path / "drawn", "--json", tmp_path / "r.json")
    assert code == 0, err
    assert len(out.splitlines()) == 6
    with VideoReader(str(video), max_pixels=10**6) as reader:
        frames = list(reader)
    wanted = [
        one
        for i, found in enumerate(model.predict(frames, score=0.0))
        for one in found.to_coco(f"{name}#{i}")
    ]
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results) == len(wanted)
    assert {one["image_id"] for one in results} == {f"{name}#{i}" for i in range(6)}
    with VideoReader(str(tmp_path / "drawn" / "clip.mp4"), max_pixels=10**6) as drawn:
        assert drawn.info.rate == 5
        assert [frame.shape for frame in drawn] == [(64, 64, 3)] * 6


def test_a_video_that_ends_early_gives_what_it_has(predict, arrays, tmp_path):
    video = write_video(tmp_path / "clip.mkv", arrays, frames=40)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    code, out, err = predict(video, "--json", tmp_path / "r.json")
    assert code == 1
    frames = len(out.splitlines())
    assert 5 < frames < 40
    assert f"{video} ends early: {frames} of" in err
    ids = {one["image_id"] for one in json.loads((tmp_path / "r.json").read_text())}
    assert ids == {f"clip.mkv#{i}" for i in range(frames)}


def test_what_is_no_video(predict, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0" * 999)
    code, _, err = predict(tmp_path / "a.mp4", tmp_path / "b.mp4", "--to", tmp_path / "drawn" / "here")
    assert code == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]  # no folder without a picture
    assert "a.mp4 cannot be read as a video" in err
    assert "b.mp4 is not there" in err


def test_classes_are_shown_with_their_ids(predict):
    assert predict("--show-classes")[:2] == (0, "    3  circle\n    7  square\n   11  star\n")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ([], "nothing to predict in", 2),
        (["nowhere/*.jpg"], "matches no file", 1),
        (["{folder}"], "holds no image", 1),
        (["{folder}", "--score", "7"], "score", 2),
        (["{image}", "--json", "{image}/r.json"], "--json", 2),
        (["{image}", "--to", "{image}/drawn"], "--to", 2),
        (["{image}", "--device", "cuda:96"], "cuda:96", 2),
    ],
    ids=str,
)
def test_mistakes_are_one_line(predict, tmp_path, files, arguments, said, code):
    (tmp_path / "empty").mkdir()
    if "--score" in arguments:
        files[0].rename(tmp_path / "empty" / "0.png")
    given = [a.format(folder=tmp_path / "empty", image=files[-1]) for a in arguments]
    found, _, err = predict(*given)
    assert found == code
    assert said in err
    assert "Traceback" not in err


def write_video(file: Path, arrays: list[np.ndarray], frames: int = 6) -> Path:
    with VideoWriter(file, Fraction(5)) as writer:
        for number in range(frames):
            writer.write(np.roll(arrays[1 if number % 2 else 4], number, axis=1))
    return file
