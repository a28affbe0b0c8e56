"""Names with spaces, quotes, dollars and brackets: printed as they are, and quoted in every command."""

import ast
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn

from data_prep import coco_to_shards, inspect, to_shards, verify
from data_prep.progress import show_progress
from qdet import __main__ as commands
from qdet.console import open_console, print_line
from qdet.inference import origin
from qdet.launching.chaos.run import Chaos, Result, print_result, run_chaos
from qdet.launching.chaos.trial import Trial
from qdet.launching.runs import note, typed
from qdet.tracking.registry import Registered
from tests.support.small_models import write_checkpoint

REPO = Path(__file__).resolve().parents[2]
NAMES = [
    "my set",
    "it's",
    'a "b"',
    "$HOME `id`",
    "[red]",
    "x[/x]",
    "[link=y]z",
    ":bee:",
    "100% {0}",
    "a;b&c",
    r"$\x$",
]
ALL = " ".join(NAMES).replace("/", "|").replace("\\", "").replace("{0}", "")
TEXT = st.text(st.sampled_from("ab '\"$`\\[]/!*:&;|{}%~#"), min_size=1, max_size=12)


@pytest.mark.parametrize("package", ["qdet", "data_prep"])
def test_text_goes_to_a_terminal_by_one_way(package: str):
    """`Console` reads markup and emoji codes in strings, unless it is made, and printed on, as here."""
    for file in (REPO / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())) if file.name != "console.py" else ():
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called.rpartition(".")[2] != "Console", file
            if called.endswith("console.print"):
                assert not any(isinstance(given, ast.JoinedStr | ast.Constant) for given in node.args), file
            if called.endswith("TextColumn"):
                assert any(one.arg == "markup" for one in node.keywords), file


@settings(max_examples=30)
@given(TEXT)
def test_a_line_is_printed_as_it_is(line: str):
    for console in (open_console(file=io.StringIO()), Console(file=io.StringIO())):
        print_line(console, line * 20)
        assert console.file.getvalue() == f"{line * 20}\n"


def test_a_bar_shows_a_name_as_it_is():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with show_progress("unpacking [/x] [red]a", 10, console) as advance:
        advance(10)
    assert "unpacking [/x] [red]a" in console.file.getvalue()
    assert Progress(TextColumn("{task.description}", markup=False)).columns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO folder with every such name: its own, those of images, and those of classes."""
    root = tmp_path / ALL
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    content = {
        "images": [{"id": i, "file_name": f"{ALL} {i}.png", "width": 40, "height": 30} for i in range(4)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i % 4,
                "category_id": i,
                "bbox": [2, 3, 20, 15],
                "area": 300,
                "iscrowd": 0,
            }
            for i in range(len(NAMES))
        ],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (40, 30)).save(root / "train" / image["file_name"])
    return root


def test_data_prep_prints_names_as_they_are(folder: Path, capsys: pytest.CaptureFixture):
    shards = folder / "shards"
    coco_to_shards.main(["--coco", str(folder), "--split", "train", "--out", str(shards), "--processes", "1"])
    assert str(shards) in capsys.readouterr().out
    coco_to_shards.main(["--coco", str(folder), "--split", "train", "--out", str(shards), "--processes", "1"])
    assert f"{shards} is already converted" in capsys.readouterr().out
    verify.main([str(shards)])
    assert f"{shards}: 4 images in 1 shard, all checksums match" in capsys.readouterr().out
    picture = folder / "found.png"
    inspect.main([str(shards), "--out", str(picture)])
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in NAMES)
    assert f"{picture}: 4 samples" in said
    assert np.asarray(Image.open(picture)).shape[0] > 900
    inspect.main([str(shards), "--check"])
    assert str(shards) in capsys.readouterr().out


def test_a_folder_is_prepared_and_errors_name_it(folder: Path, capsys: pytest.CaptureFixture):
    to_shards.main([str(folder), "--out", str(folder / "out"), "--processes", "1"])
    assert str(folder / "out" / "train") in capsys.readouterr().out
    with pytest.raises(SystemExit):
        verify.main([str(folder / "[/none]")])
    assert str(folder / "[/none]") in capsys.readouterr().err


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere" / ALL
    write_checkpoint(folder, step=2, metrics={"val/AP": 0.5})
    return folder


def test_runs_are_listed_and_shown(run: Path, capsys: pytest.CaptureFixture):
    commands.main(["runs", "--store", str(run.parent)])
    assert ALL[:20] in capsys.readouterr().out
    commands.main(["show", str(run)])
    said = capsys.readouterr().out
    assert f"run         {ALL}\n" in said
    command = said.partition("use it: ")[2].splitlines()[0]
    assert shlex.split(command) == ["qdet", "predict", f"elsewhere/{ALL}", "photo.jpg"]


def test_predictions_name_their_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    images = sorted(folder.glob("train/*.png"))[:2]
    commands.main(["predict", "demo", *map(str, images), "--to", str(tmp_path / "[/drawn]")])
    said = capsys.readouterr().out
    assert all(f"{image}: " in said for image in images)
    assert len(list((tmp_path / "[/drawn]").iterdir())) == 2


def test_an_evaluation_names_classes_and_data(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    import qdet

    shards, html = folder / "shards", tmp_path / "report.html"
    rename = dict(zip(range(3), ("circle", "[/x]", "<script>$1"), strict=True))
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": i, "name": name} for i, name in rename.items()]
    content["annotations"] = content["annotations"][:3]
    file.write_text(json.dumps(content))
    coco_to_shards.main(["--coco", str(folder), "--split", "train", "--out", str(shards), "--processes", "1"])
    model = qdet.load("demo")
    report = qdet.evaluate(model, str(shards), subset=True)
    for console in (open_console(file=io.StringIO()), Console(file=io.StringIO())):
        console.print(report.table())
        assert "circle" in console.file.getvalue()
    assert "<script>$1" not in report.html(html).read_text()


def test_chaos_names_its_folder_and_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = tmp_path / ALL
    result = Result(Trial("undisturbed", folder, workers=1, flags=()))
    monkeypatch.setattr("qdet.launching.chaos.run.break_runs", lambda *args: result)
    run_chaos(Chaos(folder=folder))
    assert f"in {folder}\n" in capsys.readouterr().out
    print_result(result, Console(file=io.StringIO()))


def printed(name: str) -> dict[str, list[str]]:
    """Commands that are printed for one name, and the words that a shell must make of them."""
    registered = Registered(name=name, version="1", alias=None, step="5", uri="sqlite:///x")
    foreign = str(origin.refuse_foreign(f"{name}.pth"))
    return {
        typed.next_commands(name, program=f"{name}/qdet")[0]: [
            f"{name}/qdet",
            "predict",
            name,
            "photo.jpg",
            *TO,
        ],
        typed.next_commands(name, data=name)[1]: [
            "qdet",
            "evaluate",
            name,
            "--data",
            name,
            "--html",
            "report.html",
        ],
        typed.next_commands(name)[2]: ["qdet", "export", name, "--to", "model.onnx"],
        note._next_commands(name).rpartition("\n```")[0].splitlines()[-1].strip(): [
            *("qdet", "register", name, "--name", "NAME", "--alias", "champion"),
        ],
        registered.report().partition("use it: ")[2]: ["qdet", "predict", f"models:/{name}/1", "photo.jpg"],
        foreign.partition("first: ")[2]: [
            *("qdet", "convert", f"{name}.pth", "--to", f"weights/{Path(f'{name}.pth').stem}"),
        ],
        typed.resume_command(name, ["jobs/a.py", "--data.train", name], {}): [
            *("python", "jobs/a.py", "--data.train", name, "--store.resume", name),
        ],
        typed.train_command({"data.train": name}, ["jobs/a.py"]): [
            "python",
            "jobs/a.py",
            "--data.train",
            name,
        ],
    }


TO = ["--to", "predictions"]


@pytest.mark.parametrize("name", [*NAMES, ALL])
def test_commands_are_quoted(name: str):
    for command, words in printed(name).items():
        assert shlex.split(command) == words


@given(TEXT)
def test_any_name_is_one_word(name: str):
    for command, words in printed(name).items():
        assert shlex.split(command) == words
