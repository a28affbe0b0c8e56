"""A detector as MLflow's `python_function`: a table of images in, a table of detections out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from qdet.errors import DataError
from qdet.inference import SCORE
from qdet.inference.detections import Detections
from qdet.inference.load import load
from qdet.inference.model import Model

WEIGHTS = "weights"
"""Name of the artifact that holds the .safetensors; its .json is `DESCRIPTION`."""
DESCRIPTION = "description"
DEVICE = "device"
PATH, IMAGE = "path", "image"
"""Columns of images: a path or URL, and encoded bytes."""


class DetectorModel(PythonModel):
    """Predicts as `qdet.load(...).predict` does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights of the model's folder, to the `device` of `load_model(..., model_config=...)`."""
        device = (context.model_config or {}).get(DEVICE, "auto")
        self._model: Model = load(context.artifacts[WEIGHTS], device=device)

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  (MLflow annotates it as None)
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Detect objects in the images of a table.

        Args:
            context: MLflow's.
            model_input: Has a column `path` (paths or URLs) or `image` (bytes of image files), or both, of
                which each row fills one.
            params: `score`, in [0, 1]: leave out detections below it; 0.3 without.

        Returns:
            A row per image: `boxes` (x0, y0, x1, y1 in its pixels), `scores`, `labels`, `names`.

        Raises:
            DataError: A row holds no image, or one that cannot be read.
        """
        score = float((params or {}).get("score", SCORE))
        return self.detect(list(images_of_rows(model_input)), score=score)

    def detect(self, images: Sequence[Any], *, score: float = SCORE) -> pd.DataFrame:
        """Detect objects in images of any kind that `qdet.Model.predict` takes, such as arrays [H, W, 3]."""
        return as_table(self._model.predict(list(images), score=score))


def as_table(found: Sequence[Detections]) -> pd.DataFrame:
    """Return detections as a table of lists, a row per image."""
    return pd.DataFrame(
        {
            "boxes": [one.boxes_xyxy.astype(np.float64).tolist() for one in found],
            "scores": [one.scores.astype(np.float64).tolist() for one in found],
            "labels": [one.labels.tolist() for one in found],
            "names": [one.names for one in found],
        }
    )


def images_of_rows(table: pd.DataFrame) -> Iterator[str | bytes]:
    """Return what each row fills: a path or bytes.

    Raises:
        DataError: A row fills none or both, or the table has neither column.
    """
    columns = [name for name in (PATH, IMAGE) if name in table]
    if not columns:
        there = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"the table has the columns {there}; give {PATH} or {IMAGE}")
    for number, row in enumerate(table[columns].itertuples(index=False)):
        filled = [value for value in row if value is not None and not isinstance(value, float)]
        if len(filled) != 1:
            raise DataError(f"row {number} must fill one of {PATH} and {IMAGE}, and fills {len(filled)}")
        yield filled[0]
