"""`qdet visualize` of a model: pictures of what it predicts, and one bad file among good ones."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qdet
from qdet.__main__ import main
from qdet.data.shards.shard_set import ShardSet
from qdet.launching.cli import parse
from qdet.recipes import read
from tests.support import small_models


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "tiny-run"
    small_models.write_checkpoint(folder, step=4, seed=1, metrics={"val/AP": 0.5})
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number, size in enumerate([(40, 60), (64, 64), (60, 40)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def visualize(capfd):
    """Run the command; returns its exit code and what it printed on both streams."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = 0
        try:
            main(["visualize", *map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_every_image_gets_a_picture_of_its_best_detections(visualize, run, photos, tmp_path):
    code, out, err = visualize(
        run, photos, "--score", 0, "--queries", 2, "--panel", 64, "--to", tmp_path / "looks"
    )
    assert code == 0, err
    model = qdet.load(run, device="cpu")
    for number, line in enumerate(out.splitlines()):
        file, said = line.split(": ", 1)
        assert file == str(tmp_path / "looks" / f"{number}.png")
        found = model.predict(photos / f"{number}.png", score=0.0)
        assert said.startswith(f"points of {found.names[0]} {found.scores[0]:.2f}")
        assert said.count(", ") == 1
        with Image.open(file) as picture:
            assert picture.width >= 64
    assert len(out.splitlines()) == 3


def test_a_bad_file_does_not_stop_the_others_and_is_named_at_the_end(visualize, run, photos, tmp_path):
    (photos / "0.png").write_bytes(b"no image")
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    looks = tmp_path / "looks"
    code, out, err = visualize(run, photos, tmp_path / "gone.png", "--score", 0, "--to", looks)
    assert code == 1
    assert [file.name for file in looks.iterdir()] == ["2.png"]
    assert len(out.splitlines()) == 1
    failures = [line for line in err.splitlines() if line.startswith("not drawn: ")]
    assert [any(name in line for line in failures) for name in ("0.png", "1.png", "gone.png")] == [True] * 3
    assert "Traceback" not in err


def test_images_without_a_detection_say_how_high_the_best_is(visualize, run, photos, tmp_path):
    code, out, _ = visualize(run, photos, "--score", 1, "--to", tmp_path / "looks")
    assert code == 0
    assert out.count("nothing of --score 1 or more; the best has 0.") == 3
    assert not (tmp_path / "looks").exists()


def test_shards_are_drawn_and_files_of_one_name_are_numbered(visualize, run, photos, demo_shards, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    (again / "0.jpg").write_bytes((photos / "0.png").read_bytes())
    looks = tmp_path / "looks"
    code, _, err = visualize(
        run,
        photos / "0.png",
        again / "0.jpg",
        demo_shards / "val",
        "--score",
        0,
        "--panel",
        32,
        "--to",
        looks,
    )
    assert code == 0, err
    keys = [ShardSet.open(demo_shards / "val").key_of(row) for row in range(16)]
    assert {file.name for file in looks.iterdir()} == {"0.png", "0-2.png", *(f"{key}.png" for key in keys)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a model and images to look at, or a job file with --job"),
        (("RUN",), "name a model and images"),
        (("RUN", "x.png", "--what", "attention"), "has none; it has points and stages"),
        (("RUN", "x.png", "--score", 2), "--score must be between 0 and 1, got 2"),
        (("RUN", "x.png", "--queries", 0), "--queries must be at least 1, got 0"),
        (("RUN", "x.png", "--", "--demo"), "--demo behind -- is a flag of a job"),
        (("RUN", "--job", "job.py"), "give one of them"),
        (("--job", "no/such.py"), "no/such.py: there is no such file"),
        (("--job", "job.py", "--step", -1), "--step must be at least 0, got -1"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_drawn_is_an_error_that_says_what_to_do(
    visualize, run, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, err = visualize(*(run if argument == "RUN" else argument for argument in arguments))
    assert code != 0
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "looks").exists()


DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "visualize.md").read_text()


def test_every_picture_of_the_page_is_there_and_shown():
    shown = set(re.findall(r"\]\((visualize/[^)]+)\)", PAGE))
    assert shown == {f"visualize/{file.name}" for file in (DOCS / "visualize").iterdir()}


def test_the_flags_of_every_job_on_the_page_parse():
    commands = re.findall(r"qdet visualize --job (.*?)(?=\s+#|\n(?! ))", PAGE, flags=re.DOTALL)
    assert len(commands) == 2
    for command in commands:
        file, *flags = shlex.split(command.replace("\\\n", " "))
        assert parse(read(DOCS.parent / file), flags[flags.index("--") + 1 :]).name == "adamixer_swin_demo"
