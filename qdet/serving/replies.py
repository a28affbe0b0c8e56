"""Answers in JSON, and how the OpenAPI page describes them."""

from typing import Any

import msgspec
import numpy as np
from pydantic import BaseModel, Field

from qdet.data.shards.categories import Categories
from qdet.inference.description import Description
from qdet.inference.detections import Detections

EXAMPLE = {"score": 0.92, "box_xyxy": [48.2, 31.0, 212.9, 240.6]}


class ModelInfo(BaseModel):
    """Which model answered."""

    name: str = Field(description="Name of the job that trained it.")
    step: int = Field(description="Training steps behind its weights.")
    averaged: bool = Field(description="Whether its weights are a moving average.")


class Detection(BaseModel):
    """One object."""

    label: int = Field(description="Class index, from 0.")
    name: str = Field(description="Class name.")
    score: float = Field(description="In [0, 1].")
    box_xyxy: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom in pixels of the image, upright as its EXIF orientation says."
    )


class ImageReply(BaseModel):
    """What was found in an image, best first."""

    detections: list[Detection]
    width: int = Field(description="Of the image, in pixels.")
    height: int = Field(description="Of the image, in pixels.")
    model: ModelInfo


class ClassInfo(BaseModel):
    """A class of the model."""

    label: int = Field(description="Class index, from 0.")
    name: str
    id: int = Field(description="Category id in the dataset's annotations and in COCO results.")


class ErrorReply(BaseModel):
    """Why a request was refused."""

    error: str


class HealthReply(BaseModel):
    """The model answers."""

    status: str


def model_info(description: Description) -> dict[str, Any]:
    """Return the name and age of a model; not where it was loaded from, which is the operator's alone."""
    return {"name": description.name, "step": description.step, "averaged": description.averaged}


def class_list(classes: Categories) -> list[dict[str, Any]]:
    """Return the classes in the order of labels."""
    pairs = zip(classes.names, classes.ids, strict=True)
    return [{"label": label, "name": name, "id": number} for label, (name, number) in enumerate(pairs)]


def encode_image(found: Detections, model: dict[str, Any]) -> dict[str, Any]:
    """Return the reply of one image; numbers keep every bit of their float32."""
    boxes, scores = found.boxes_xyxy.astype(np.float64).tolist(), found.scores.astype(np.float64).tolist()
    rows = zip(found.labels.tolist(), found.names, scores, boxes, strict=True)
    height, width = found.size_hw
    return {
        "detections": [
            {"label": label, "name": name, "score": score, "box_xyxy": box}
            for label, name, score, box in rows
        ],
        "width": width,
        "height": height,
        "model": model,
    }


def encode(content: Any) -> bytes:
    """Return JSON."""
    return msgspec.json.encode(content)


def example(classes: Categories, model: dict[str, Any]) -> dict[str, Any]:
    """Return a made-up reply with a class of the model, for the documentation."""
    detection = {"label": 0, "name": classes.names[0]} | EXAMPLE
    return {"detections": [detection], "width": 640, "height": 480, "model": model}
