"""Random ground truth and detections: crowds, ties, empty images, a class without objects."""

import numpy as np

from qdet.evaluation import DetectionRows

CATEGORIES = (3, 7, 8, 90)  # gaps; 90 never has ground truth


def random_truth(rng: np.random.Generator, images: int = 6) -> dict:
    """Objects of all sizes and some crowds; image 0 and some others may be empty."""
    annotations = []
    for image in range(images):
        for _ in range(int(rng.integers(0, 6))):
            x, y = rng.uniform(0, 200, 2)
            w, h = np.exp(rng.uniform(np.log(4), np.log(200), 2))
            annotations.append(
                {
                    "id": len(annotations),  # starts at 0, which COCO's matching cannot tell from "no match"
                    "image_id": image * 10,
                    "category_id": int(rng.choice(CATEGORIES[:3])),
                    "bbox": [float(v) for v in (x, y, w, h)],
                    "area": float(w * h * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return {
        "images": [{"id": image * 10, "file_name": f"{image}.jpg"} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in CATEGORIES],
    }


def random_rows(rng: np.random.Generator, truth: dict, extra: int = 40) -> DetectionRows:
    """Noisy copies of the objects, strays and exact duplicates, with many tied scores."""
    boxes, images, labels = [], [], []
    for a in truth["annotations"]:
        if rng.random() < 0.8:
            boxes.append(np.array(a["bbox"]) + rng.normal(0, 4, 4))
            images.append(a["image_id"])
            labels.append(a["category_id"] if rng.random() < 0.9 else 90)
    for _ in range(extra):
        boxes.append(rng.uniform(1, 200, 4))
        images.append(truth["images"][int(rng.integers(0, len(truth["images"])))]["id"])
        labels.append(int(rng.choice(CATEGORIES)))
    boxes_xywh = np.maximum(np.array(boxes), 1.0)
    return DetectionRows(
        image_ids=np.array(images, np.int64),
        category_ids=np.array(labels, np.int64),
        boxes_xywh=boxes_xywh,
        scores=rng.integers(1, 6, len(boxes)) / 8,
        seen=np.array([image["id"] for image in truth["images"]], np.int64),
    )
