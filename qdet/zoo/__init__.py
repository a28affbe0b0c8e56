"""The zoo. In: published models, numbers that papers quote, official recipes. Out: training and loading."""

from qdet.zoo.listing import Row, as_json, row, rows, table
from qdet.zoo.models import Model, load_job, models

__all__ = ["Model", "Row", "as_json", "load_job", "models", "row", "rows", "table"]
