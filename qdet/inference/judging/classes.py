"""A model's classes and a dataset's, brought together by name."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qdet.data.shards.categories import Categories
from qdet.errors import ConfigError
from qdet.evaluation import DetectionRows

_NAMED = 5
"""Names of each kind in an error."""


@dataclass(frozen=True)
class SharedClasses:
    """Which class of the dataset each label of a model is."""

    category_ids: tuple[int, ...]
    """The dataset's id of every label; ids that it does not have for classes that it does not know."""
    evaluated: frozenset[int]
    """The dataset's ids of the classes that both know."""

    def common(self, other: "SharedClasses") -> "SharedClasses":
        """Evaluate only what another model knows, too."""
        return replace(self, evaluated=self.evaluated & other.evaluated)

    def select_truth(self, ground_truth: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out the classes that the model does not know."""
        return {
            **ground_truth,
            "annotations": [a for a in ground_truth["annotations"] if a["category_id"] in self.evaluated],
            "categories": [c for c in ground_truth["categories"] if c["id"] in self.evaluated],
        }

    def select_rows(self, rows: DetectionRows) -> DetectionRows:
        """Leave out detections of classes that the dataset does not know."""
        keep = np.isin(rows.category_ids, np.array(sorted(self.evaluated), np.int64))
        return replace(
            rows,
            image_ids=rows.image_ids[keep],
            category_ids=rows.category_ids[keep],
            boxes_xywh=rows.boxes_xywh[keep],
            scores=rows.scores[keep],
        )


def share_classes(
    model: Categories, data: Categories, *, model_name: str, data_name: str, subset: bool
) -> SharedClasses:
    """Find the dataset's class of the same name for every class of the model, in whatever order they are.

    Raises:
        ConfigError: Either has classes that the other lacks, and `subset` is off; or they share none.
    """
    ids = {_same(name): id_ for name, id_ in zip(data.names, data.ids, strict=True)}
    unknown = max(data.ids) + 1
    category_ids = tuple(ids.get(_same(name), unknown + label) for label, name in enumerate(model.names))
    shared = frozenset(category_ids) & frozenset(data.ids)
    known = {_same(name) for name in model.names}
    only_model = [name for name in model.names if _same(name) not in ids]
    only_data = [name for name in data.names if _same(name) not in known]
    if shared and (subset or not (only_model or only_data)):
        return SharedClasses(category_ids, shared)
    parts = [f"{model_name} and {data_name} do not have the same classes"]
    parts += [f"only the model has {_some(only_model)}"] if only_model else []
    parts += [f"only the data has {_some(only_data)}"] if only_data else []
    advice = f"give --subset to evaluate the {len(shared)} that both have" if shared else "they share none"
    raise ConfigError("; ".join((*parts, advice)))


def _same(name: str) -> str:
    """Names that look the same are: Unicode has several forms of some letters."""
    return unicodedata.normalize("NFC", name).strip()


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{listed} and {len(names) - _NAMED} more" if len(names) > _NAMED else listed
