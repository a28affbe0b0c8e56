"""Write one labelled dataset in every format that data_prep.datasets reads, as literally as can be."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

Objects = Sequence[tuple[str, tuple[float, float, float, float]]]
"""Class and corners x0, y0, x1, y1 in pixels of each object."""


@dataclass(frozen=True)
class Picture:
    """One image with its objects."""

    stem: str
    size_wh: tuple[int, int]
    objects: Objects = ()
    kind: str = "png"

    @property
    def file(self) -> str:
        return f"{self.stem}.{self.kind}"


Splits = Mapping[str, Sequence[Picture]]


@lru_cache(maxsize=64)
def image_bytes(size_wh: tuple[int, int], kind: str = "png", seed: int = 0) -> bytes:
    """Bytes of a noisy image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size_wh).save(out, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return out.getvalue()


def put(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def put_image(folder: Path, picture: Picture) -> None:
    put(folder / picture.file, image_bytes(picture.size_wh, picture.kind))


def write_coco(root: Path, splits: Splits, names: Sequence[str]) -> None:
    for split, pictures in splits.items():
        images, annotations = [], []
        for i, picture in enumerate(pictures, start=1):
            put_image(root / split, picture)
            w, h = picture.size_wh
            images.append({"id": i, "file_name": picture.file, "width": w, "height": h})
            for label, (x0, y0, x1, y1) in picture.objects:
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                about = {"id": len(annotations) + 1, "image_id": i, "category_id": names.index(label) + 1}
                annotations.append(about | box)
        categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        put(root / "annotations" / f"instances_{split}.json", json.dumps(content))


def write_roboflow_coco(root: Path, splits: Splits, names: Sequence[str]) -> None:
    write_coco(root, splits, names)
    for split in splits:
        (root / "annotations" / f"instances_{split}.json").rename(root / split / "_annotations.coco.json")
        if split == "val":
            (root / split).rename(root / "valid")
    (root / "annotations").rmdir()


def yolo_line(number: int, box: tuple[float, float, float, float], size_wh: tuple[int, int]) -> str:
    (x0, y0, x1, y1), (w, h) = box, size_wh
    return f"{number} {(x0 + x1) / 2 / w!r} {(y0 + y1) / 2 / h!r} {(x1 - x0) / w!r} {(y1 - y0) / h!r}\n"


def _yolo_label(picture: Picture, names: Sequence[str]) -> str:
    return "".join(yolo_line(names.index(label), box, picture.size_wh) for label, box in picture.objects)


def _yolo_yaml(names: Sequence[str], entries: Mapping[str, str]) -> str:
    lines = [f"{split}: {entry}" for split, entry in entries.items()]
    return "\n".join([*lines, f"nc: {len(names)}", f"names: {json.dumps(list(names))}", ""])


def write_yolo(root: Path, splits: Splits, names: Sequence[str]) -> None:
    """Ultralytics: images/train and labels/train."""
    for split, pictures in splits.items():
        for picture in pictures:
            put_image(root / "images" / split, picture)
            if picture.objects:
                put(root / "labels" / split / f"{picture.stem}.txt", _yolo_label(picture, names))
    put(root / "data.yaml", "path: ../datasets/x\n" + _yolo_yaml(names, {s: f"images/{s}" for s in splits}))


def write_roboflow_yolo(root: Path, splits: Splits, names: Sequence[str]) -> None:
    """Roboflow: train/images and train/labels, and paths that begin with `../`."""
    folders = {split: {"val": "valid"}.get(split, split) for split in splits}
    for split, pictures in splits.items():
        for picture in pictures:
            put_image(root / folders[split] / "images", picture)
            put(root / folders[split] / "labels" / f"{picture.stem}.txt", _yolo_label(picture, names))
    put(root / "data.yaml", _yolo_yaml(names, {s: f"../{folder}/images" for s, folder in folders.items()}))
    put(root / "README.roboflow.txt", "exported\n")


def write_darknet(root: Path, splits: Splits, names: Sequence[str]) -> None:
    """CVAT's "YOLO 1.1": everything in one folder, and lists."""
    for split, pictures in splits.items():
        lines = []
        for picture in pictures:
            put_image(root / "obj_train_data" / split, picture)
            put(root / "obj_train_data" / split / f"{picture.stem}.txt", _yolo_label(picture, names))
            lines.append(f"data/obj_train_data/{split}/{picture.file}\n")
        put(root / f"{split}.txt", "".join(lines))
    put(root / "obj.names", "".join(f"{name}\n" for name in names))
    put(root / "obj.data", f"classes = {len(names)}\ntrain = data/train.txt\nnames = data/obj.names\n")


def voc_xml(picture: Picture) -> str:
    w, h = picture.size_wh
    objects = "".join(
        f"<object><name>{escape(label)}</name><difficult>0</difficult><bndbox><xmin>{x0 + 1!r}</xmin>"
        f"<ymin>{y0 + 1!r}</ymin><xmax>{x1!r}</xmax><ymax>{y1!r}</ymax></bndbox></object>"
        for label, (x0, y0, x1, y1) in picture.objects
    )
    size = f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(picture.file)}</filename>{size}{objects}</annotation>"


def write_voc(root: Path, splits: Splits, names: Sequence[str]) -> None:
    for split, pictures in splits.items():
        for picture in pictures:
            put_image(root / "JPEGImages", picture)
            put(root / "Annotations" / f"{picture.stem}.xml", voc_xml(picture))
        put(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{p.stem}\n" for p in pictures))


def write_flat_voc(root: Path, splits: Splits, names: Sequence[str]) -> None:
    """Roboflow's Pascal VOC: image and XML side by side."""
    for split, pictures in splits.items():
        folder = root / {"val": "valid"}.get(split, split)
        for picture in pictures:
            put_image(folder, picture)
            put(folder / f"{picture.stem}.xml", voc_xml(picture))


def labelme_json(picture: Picture) -> str:
    w, h = picture.size_wh
    shapes = [
        {"label": label, "points": [[x1, y0], [x0, y1]], "group_id": None, "shape_type": "rectangle"}
        for label, (x0, y0, x1, y1) in picture.objects
    ]
    about = {"imagePath": picture.file, "imageData": None, "imageHeight": h, "imageWidth": w}
    return json.dumps({"version": "5.5.0", "flags": {}, "shapes": shapes} | about)


def write_labelme(root: Path, splits: Splits, names: Sequence[str]) -> None:
    for split, pictures in splits.items():
        for picture in pictures:
            put_image(root / split, picture)
            put(root / split / f"{picture.stem}.json", labelme_json(picture))


def write_createml(root: Path, splits: Splits, names: Sequence[str]) -> None:
    for split, pictures in splits.items():
        entries = []
        for picture in pictures:
            put_image(root / split, picture)
            objects = [
                {
                    "label": label,
                    "coordinates": {
                        "x": (x0 + x1) / 2,
                        "y": (y0 + y1) / 2,
                        "width": x1 - x0,
                        "height": y1 - y0,
                    },
                }
                for label, (x0, y0, x1, y1) in picture.objects
            ]
            entries.append({"image": picture.file, "annotations": objects})
        put(root / split / "_annotations.createml.json", json.dumps(entries))


def _hf_rows(pictures: Sequence[Picture], folder: str = "") -> list[dict]:
    return [
        {
            "file_name": folder + picture.file,
            "objects": {
                "bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in picture.objects],
                "categories": [label for label, _ in picture.objects],
            },
        }
        for picture in pictures
    ]


def write_hugging_face(root: Path, splits: Splits, names: Sequence[str]) -> None:
    for split, pictures in splits.items():
        folder = root / {"val": "validation"}.get(split, split)
        for picture in pictures:
            put_image(folder, picture)
        put(folder / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in _hf_rows(pictures)))


def write_hugging_face_csv(root: Path, splits: Splits, names: Sequence[str]) -> None:
    """One CSV at the root, with numbered classes that the dataset card names."""
    lines = ["file_name,objects"]
    for split, pictures in splits.items():
        for picture in pictures:
            put_image(root / split, picture)
        for row in _hf_rows(pictures, f"{split}/"):
            row["objects"]["categories"] = [names.index(name) for name in row["objects"]["categories"]]
            lines.append(f'"{row["file_name"]}","{json.dumps(row["objects"]).replace(chr(34), chr(34) * 2)}"')
    put(root / "metadata.csv", "\n".join(lines) + "\n")
    listed = "".join(f"              '{k}': {json.dumps(name)}\n" for k, name in enumerate(names))
    put(
        root / "README.md",
        "---\ndataset_info:\n  features:\n  - name: objects\n    sequence:\n    - name: categories\n"
        f"      dtype:\n        class_label:\n            names:\n{listed}---\n# Card\n",
    )


WRITERS = {
    "coco": ("coco", write_coco),
    "coco of Roboflow": ("coco", write_roboflow_coco),
    "yolo": ("yolo", write_yolo),
    "yolo of Roboflow": ("yolo", write_roboflow_yolo),
    "darknet": ("yolo", write_darknet),
    "voc": ("voc", write_voc),
    "voc of Roboflow": ("voc", write_flat_voc),
    "labelme": ("labelme", write_labelme),
    "createml": ("createml", write_createml),
    "hf": ("hf", write_hugging_face),
    "hf in CSV": ("hf", write_hugging_face_csv),
}
"""Format and writer of every layout."""
