"""What a submitted job carries: everything it may import, and no weights, images or datasets."""

import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.errors import ConfigError
from qdet.launching.ray_backend.submit import submit
from qdet.launching.ray_backend.uploading.upload import EXCLUDES, LARGE, RAYS_LIMIT, escape, plan_upload

packaging = pytest.importorskip("ray._private.runtime_env.packaging")
REPO = Path(__file__).resolve().parents[2]


def make(root: Path, *files: str, size: int = 10) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("wb") as out:
            out.truncate(size)  # sparse where it is large
    return root


def pack(root: Path, excludes: list[str], to: Path) -> set[str]:
    """Let Ray itself make the package; return the files in it."""
    packaging.create_package(str(root), to, include_gitignore=True, excludes=excludes)
    return {name for name in zipfile.ZipFile(to).namelist() if not name.endswith("/")}


def packed(root: Path, *include: str) -> set[str]:
    return pack(root, plan_upload(root, include).excludes, root.parent / "package.zip")


DATA = [
    "model.safetensors",
    "checkpoint.pth",
    "weights/detr_r50/rank_00000.safetensors",
    "weights/a/step_000000/x.safetensors",
    "datasets/mine/1.jpg",
    "Scans/SLIDE.TIF",
    "clips/drive.MP4",
    "export/model.onnx",
    "annotations.tar.gz",
    "outputs/run/step_000001/manifest.json",
    "data/demo/shards/train/manifest.json",
    "env-3.11/pyvenv.cfg",
    "env-3.11/lib/python3.11/site-packages/torch/__init__.py",
    "package.egg-info/PKG-INFO",
]
SOURCE = [
    "jobs/mine.py",
    "data/transforms/__init__.py",
    "data/transforms/crop.py",
    "weights/schedule.py",
    "outputs/plot.py",
    "native/op.cu",
    "configs/classes.yaml",
    "configs/preview.png.txt",
    "mine/kernel.so",
    "mine/__init__.py",
    "mine/anchors.npz",
    "mine/icons/cat.png",
]


def test_source_travels_and_data_stays(tmp_path: Path):
    assert packed(make(tmp_path / "project", *DATA, *SOURCE)) == set(SOURCE)


def test_the_patterns_alone_leave_data_out_and_keep_what_the_package_needs(tmp_path: Path):
    ours = [
        "qdet/backbones/swin_demo.safetensors",
        "qdet/inference/demo.safetensors",
        "qdet/inference/demo.json",
    ]
    root = make(tmp_path / "project", *DATA, *ours, "jobs/mine.py", "qdet/serving/page.html")
    sent = pack(root, EXCLUDES, tmp_path / "package.zip")
    assert {*ours, "jobs/mine.py", "qdet/serving/page.html"} <= sent
    assert not sent & {name for name in DATA if not name.startswith("env-")}


def test_ray_alone_leaves_the_same_out_of_this_project():
    lines = (REPO / ".rayignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == EXCLUDES


def test_this_project_travels_whole():
    files = plan_upload(REPO).files
    assert "qdet/backbones/swin_demo.safetensors" in files
    assert {p.relative_to(REPO).as_posix() for p in (REPO / "qdet").rglob("*.py")} <= set(files)
    assert sum(files.values()) < 40e6


@pytest.mark.parametrize("labels", ["labels/{}.txt", "labels/{}.xml", "images/{}.json"])
def test_labels_stay_with_the_images_they_are_of(tmp_path: Path, labels: str):
    pairs = [name for i in range(20) for name in (f"set/images/{i}.jpg", f"set/{labels.format(i)}")]
    root = make(tmp_path / "project", *pairs, "set/data.yaml", "train.py")
    plan = plan_upload(root)
    assert set(plan.files) == {"train.py"}
    assert plan.left_out == {"set": 41 * 10}


def test_a_link_to_a_dataset_elsewhere_is_not_followed(tmp_path: Path):
    make(tmp_path / "elsewhere", *(f"{i}.jpg" for i in range(30)), *(f"{i}.txt" for i in range(30)))
    root = make(tmp_path / "project", "train.py")
    (root / "coco").symlink_to(tmp_path / "elsewhere")
    assert packed(root) == {"train.py"}


def test_a_link_that_leads_back_up_ends(tmp_path: Path):
    root = make(tmp_path / "project", "a/b.py")
    (root / "a" / "again").symlink_to(root)
    (root / ".rayignore").write_text("a/again\n")  # Ray itself would follow it
    assert "a/b.py" in plan_upload(root).files


def test_what_is_large_is_named(tmp_path: Path):
    root = make(tmp_path / "project", "instances.json", "mine/table.json", size=LARGE)
    make(root, "mine/__init__.py", "run.py")
    plan = plan_upload(root)
    assert plan.left_out == {"instances.json": LARGE}
    assert plan.describe() == (
        "uploading 3 files, 10.5 MB; large: mine/table.json (10.5 MB)\n"
        "not uploaded, being no source: instances.json (10.5 MB); --include PATH uploads it too"
    )


def test_more_than_ray_takes_is_refused_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make(tmp_path / "project", "mine/__init__.py", "mine/model.pth", size=300)
    assert len(plan_upload(root).files) == 2
    monkeypatch.setenv(RAYS_LIMIT, "600")
    with pytest.raises(ConfigError, match=r"Ray takes less than .*mine/model.pth.*\.rayignore"):
        plan_upload(root)


@pytest.mark.parametrize("path", ["weights/a b[1]/model.pth", "weights/a b[1]", "./weights"])
def test_what_is_asked_for_travels(tmp_path: Path, path: str):
    root = make(tmp_path / "project", "weights/a b[1]/model.pth", "weights2/model.pth", "run.py")
    assert packed(root, path) == {"weights/a b[1]/model.pth", "run.py"}


@pytest.mark.parametrize(
    ("path", "says"),
    [("nowhere.pth", "no such file"), ("..", "below"), ("kept.pth", ".rayignore leaves it out")],
)
def test_what_cannot_travel_is_refused(tmp_path: Path, path: str, says: str):
    root = make(tmp_path / "project", "kept.pth")
    (root / ".rayignore").write_text("*.pth\n")
    with pytest.raises(ConfigError, match=says):
        plan_upload(root, [path])


NAMES = st.sampled_from(["a", "data", "my set", "[x]", "#1", "!b", "sträße", "weights", "*"])
ENDINGS = st.sampled_from([".py", ".jpg", ".PTH", ".yaml", ".json"])
PATHS = st.builds(
    lambda folders, name, end: "/".join([*folders, name + end]), st.lists(NAMES, max_size=3), NAMES, ENDINGS
)


@settings(max_examples=30, deadline=None)
@given(st.sets(PATHS, max_size=12))
def test_code_always_travels_and_weights_never(tmp_path_factory: pytest.TempPathFactory, paths: set[str]):
    root = make(tmp_path_factory.mktemp("any"), "start.py", *paths)
    files = plan_upload(root).files
    assert {path for path in paths if path.endswith(".py")} <= set(files)
    assert not [path for path in files if path.endswith((".jpg", ".PTH"))]


@settings(max_examples=30, deadline=None)
@given(st.sets(PATHS, min_size=1, max_size=8), st.data())
def test_a_pattern_matches_the_path_it_was_made_of(paths: set[str], data: st.DataObject):
    one = data.draw(st.sampled_from(sorted(paths)))
    match = packaging._get_excludes(Path("/project"), [f"/{escape(one)}"])
    assert {path for path in paths if match(Path("/project") / path)} == {one}


def test_the_command_says_what_it_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Client:
        def __init__(self, address):
            pass

        def submit_job(self, *, entrypoint, runtime_env):
            sent.append(runtime_env)
            raise RuntimeError("far enough")

    sent, shown = [], []
    make(tmp_path, "run.py", "model.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    with pytest.raises(Exception, match="far enough"):
        submit("run.py", address="http://127.0.0.1:9", show=shown.append)
    assert shown == [
        "uploading 1 file, 0.0 MB\nnot uploaded, being no source: model.pth (0.0 MB); "
        "--include PATH uploads it too\n"
    ]
    assert pack(Path(os.curdir).absolute(), sent[0]["excludes"], tmp_path.parent / "p.zip") == {"run.py"}
