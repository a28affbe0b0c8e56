"""A small random model, and services with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qdet.inference.load import load
from qdet.inference.model import Model
from qdet.serving.service import Service
from qdet.serving.settings import Limits, ServiceSettings
from tests.support.small_models import write_checkpoint
from tests.support.web import Site, serve

SMALL = Limits(
    max_bytes=200_000,
    max_pixels=400_000,
    max_files=3,
    max_detections=50,
    max_size=128,
    queue=8,
    upload_seconds=20.0,
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("served")
    write_checkpoint(folder, step=200, averaged=True)
    return load(folder / "step_000200", device="cpu")


@pytest.fixture(scope="session")
def settings() -> ServiceSettings:
    return ServiceSettings(score=0.0, detections=50, batch_size=4, wait_seconds=0.0, limits=SMALL)


@pytest.fixture(scope="session")
def shared_site(model: Model, settings: ServiceSettings) -> Iterator[Site]:
    """A service for tests that leave it as it was."""
    with serve(Service(model, settings)) as site:
        yield site


@pytest.fixture
def make_site(model: Model, settings: ServiceSettings):
    """Start a service with other settings or limits; they end with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(model: Model = model, *, limits: Limits = SMALL, **changes) -> Site:
            changed = replace(settings, limits=limits, **changes)
            return stack.enter_context(serve(Service(model, changed)))

        yield make
