"""A start from a model of other classes is judged before any worker starts, however the model is named."""

import fsspec
import pytest

from qdet.checkpoint import Checkpoint, open_folder
from qdet.checkpoint.reading import export
from qdet.config import override
from qdet.data.shards.categories import Categories
from qdet.errors import ConfigError
from qdet.launching.preflight.start import check_start
from tests.support import small_models
from tests.support.tiny_job import job as TINY

WAYS = ("run", "name", "checkpoint", "safetensors", "folder", "URL of a run", "URL of a file")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """The same model, of the classes circle, square and star, by every way of naming it."""
    store = tmp_path_factory.mktemp("store")
    run = store / "earlier"
    small_models.write_checkpoint(run, step=3, metrics={"val/AP": 0.5})
    (store / "exported").mkdir()
    file = store / "exported" / "model.safetensors"
    export(Checkpoint(open_folder(run / "step_000003")), file)
    memory = fsspec.filesystem("memory")
    for path in [*(run / "step_000003").iterdir(), *file.parent.iterdir()]:
        memory.pipe_file(f"/other-classes/{path.relative_to(store)}", path.read_bytes())
    yield (
        dict(
            zip(
                WAYS,
                (
                    str(run),
                    "earlier",
                    str(run / "step_000003"),
                    str(file),
                    str(file.parent),
                    "memory://other-classes/earlier",
                    "memory://other-classes/exported/model.safetensors",
                ),
                strict=True,
            )
        ),
        str(store),
    )
    memory.rm("/other-classes", recursive=True)


ASKED = {
    "as many, none the same": (
        ("disk", "block", "spark"),
        "new disk, block, spark; left out circle, square, star",
    ),
    "as many, some the same": (
        ("star", "block", "circle"),
        "kept star, circle; new block; left out square",
    ),
    "in another order": (("star", "square", "circle"), "kept star, square, circle"),
    "fewer": (("circle", "square"), "kept circle, square; left out star"),
}
CASES = [
    pytest.param(*case, way, id=f"{name}-{way}", marks=() if default else pytest.mark.slow)
    for number, way in enumerate(WAYS)
    for which, (name, case) in enumerate(ASKED.items())
    for default in [number == 0 or which == number % len(ASKED)]
]
"""One way with all lists of classes, each other way with one of them by default."""


@pytest.mark.parametrize(("names", "said", "way"), CASES)
def test_rows_go_by_names_and_not_by_numbers(addresses, way, names, said):
    named, store = addresses
    job = override(TINY, {"store.init_from": named[way], "store.path": store})
    lines = check_start(job, Categories(names, tuple(range(len(names)))))
    assert lines[-1] == f"class head: {said}"


@pytest.mark.parametrize("way", WAYS)
def test_equal_classes_are_taken_over_without_a_word(addresses, way):
    named, store = addresses
    job = override(TINY, {"store.init_from": named[way], "store.path": store})
    lines = check_start(job, Categories(small_models.NAMES, (3, 7, 11)))
    assert lines[0].startswith("starts from ")
    assert len(lines) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_detector_of_other_sizes_is_refused_by_every_way(addresses, way):
    named, store = addresses
    changes = {"store.init_from": named[way], "store.path": store, "detector.width": 64}
    with pytest.raises(ConfigError, match=r"--store.init-from .* of other sizes: --detector.width is 64"):
        check_start(override(TINY, changes), Categories(("a", "b", "c"), (1, 2, 3)))
