"""A run with two checkpoints, of which the earlier is the better, and images of several kinds."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import small_models


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "tiny-run"
    small_models.write_checkpoint(folder, step=4, seed=1, averaged=True, metrics={"val/AP": 0.5})
    small_models.write_checkpoint(folder, step=8, seed=2, metrics={"val/AP": 0.25})
    return folder


@pytest.fixture(scope="session")
def model(run: Path):
    import qdet

    return qdet.load(run, device="cpu")


@pytest.fixture(scope="session")
def arrays() -> list[np.ndarray]:
    """Images of several sizes."""
    rng = np.random.default_rng(3)
    sizes = [(40, 60), (64, 64), (60, 40), (33, 90), (64, 64), (128, 70), (50, 50)]
    return [
        np.kron(rng.integers(0, 255, (h // 8 + 1, w // 8 + 1, 3)), np.ones((8, 8, 1)))[:h, :w].astype(
            np.uint8
        )
        for h, w in sizes
    ]


@pytest.fixture
def files(arrays: list[np.ndarray], tmp_path: Path) -> list[Path]:
    """The same images as PNG files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, array in enumerate(arrays):
        (folder / f"{number:03d}.png").write_bytes(encode(array, "PNG"))
    return sorted(folder.iterdir())


def encode(array: np.ndarray, kind: str, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()
