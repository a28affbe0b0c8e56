"""One tiny model, exported once for all tests."""

import pytest

from qdet.exporting.export import Exported, export
from qdet.inference.model import Model
from tests.support.loaded_models import small_model


@pytest.fixture(scope="session")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="session")
def onnx(model, tmp_path_factory) -> Exported:
    """The model as ONNX."""
    return export(model, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="session")
def program(model, tmp_path_factory) -> Exported:
    """The model as a program of torch.export."""
    return export(model, tmp_path_factory.mktemp("program") / "tiny.pt2")
