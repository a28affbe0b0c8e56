"""Pascal VOC: an XML file for each image, with corners of boxes counted from 1, both inclusive.

    JPEGImages/1.jpg, Annotations/1.xml, ImageSets/Main/train.txt        VOC, CVAT
    train/1.jpg, train/1.xml, valid/...                                  Roboflow
    images/1.jpg, annotations/1.xml; or 1.jpg and 1.xml side by side     LabelImg and others

As VOC's development kit has it, the box from xmin 1 to xmax 10 is the first ten pixels: 0 to 10 here. Objects
marked `difficult` are ordinary objects.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from data_prep.datasets.files import read_text, read_xml
from data_prep.datasets.labels import (
    Box,
    Found,
    Labels,
    build_parts,
    check_missing,
    corners,
    label_name,
    numbers,
)
from data_prep.datasets.splits import group_by_split, keep_labelled_folders, split_named
from data_prep.datasets.tree import Tree, join
from data_prep.wording import quote
from qdet.errors import DataError

_XML = frozenset((".xml",))
_LISTS = "ImageSets/Main"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find(tree: Tree) -> str | None:
    """Return the file that shows that a folder is a Pascal VOC dataset, or None."""
    return next(tree.below(suffixes=_XML), None)


def read(tree: Tree) -> Found:
    """Read a Pascal VOC dataset.

    Raises:
        DataError: An XML file is wrong, or an image is missing; the message names the file.
    """
    notes: Counter[str] = Counter()
    xml_of, missing = _match(tree)
    listed = _read_lists(tree)
    if listed:
        splits = {split: _find_listed(tree, ids, split) for split, ids in listed.items()}
    else:
        check_missing(missing, tree.root, "its XML files are of")
        images = keep_labelled_folders(tree.images(), xml_of.__contains__, notes)
        splits = group_by_split(images, notes)
    labels = {
        split: [_read_labels(image, xml_of.get(image), tree, notes) for image in images]
        for split, images in splits.items()
    }
    if not any(image in xml_of for images in splits.values() for image in images):
        raise DataError(f"{tree.root}: none of its images has an XML file of the same name")
    return Found(build_parts(tree, labels, None), notes=notes)


def _match(tree: Tree) -> tuple[dict[str, str], list[str]]:
    """Find the image of every XML file; return XML files by image, and those without one."""
    xml_of, missing = {}, []
    for xml in tree.below(suffixes=_XML):
        image = next((i for i in _image_stems(xml) if i in tree.image_of_stem), None)
        image = tree.image_of_stem[image] if image is not None else _image_named_in(xml, tree)
        if image is None:
            missing.append(xml)
        else:
            xml_of[image] = xml
    return xml_of, missing


def _image_stems(xml: str) -> Iterator[str]:
    """Yield the names without extension that the image of an XML file may have."""
    folder, name = posixpath.split(posixpath.splitext(xml)[0])
    yield join(folder, name)
    words = folder.split("/")
    for at, word in enumerate(words):
        if word.lower() in ("annotations", "annotation", "labels", "xml", "xmls"):
            for images in _IMAGE_FOLDERS:
                yield "/".join((*words[:at], images, *words[at + 1 :], name))
            yield "/".join((*words[:at], *words[at + 1 :], name))


def _image_named_in(xml: str, tree: Tree) -> str | None:
    """Return the image that `<filename>` gives, in one of the folders where it may be."""
    name = read_xml(tree.path(xml)).findtext("filename") or ""
    for stem in _image_stems(xml):
        found = tree.look_up(name, base=posixpath.dirname(stem), where=str(tree.path(xml)))
        if found in tree.files:
            return found
    return None


def _read_lists(tree: Tree) -> dict[str, list[str]]:
    """Return the ids of each split in ImageSets/Main; trainval counts only without train and val."""
    found = {}
    for name in tree.folders.get(_LISTS, ()):
        word = posixpath.splitext(name)[0]
        split = split_named(word)
        if split is not None and word != "trainval":
            lines = read_text(tree.path(join(_LISTS, name))).splitlines()
            found[split] = [line.strip() for line in lines if line.strip()]
    if "train" not in found and "val" not in found and join(_LISTS, "trainval.txt") in tree.files:
        lines = read_text(tree.path(join(_LISTS, "trainval.txt"))).splitlines()
        found["train"] = [line.strip() for line in lines if line.strip()]
    return {split: ids for split, ids in found.items() if ids}


def _find_listed(tree: Tree, ids: Sequence[str], split: str) -> list[str]:
    found, missing = {}, []
    for name in ids:
        image = _find_image(tree, name, split)
        if image is None:
            missing.append(name)
        else:
            found[image] = None
    check_missing(missing, tree.root, f"{_LISTS}/{split}.txt lists")
    return list(found)


def _find_image(tree: Tree, name: str, split: str) -> str | None:
    """Return the image with an id, which may have a folder or an extension."""
    for folder in _IMAGE_FOLDERS:
        stem = f"{folder}/{name}"
        if stem in tree.image_of_stem:
            return tree.image_of_stem[stem]
        found = tree.look_up(name, base=folder, where=f"{tree.root}/{_LISTS}/{split}.txt")
        if found in tree.files:
            return found
    return None


def _read_labels(image: str, xml: str | None, tree: Tree, notes: Counter[str]) -> Labels:
    if xml is None:
        notes["images without an XML file, taken as images without objects"] += 1
        return Labels(image, ())
    where = str(tree.path(xml))
    root = read_xml(tree.path(xml))
    if root.tag == "annotations" or root.find("image") is not None:
        raise DataError(f"{where} is CVAT's own XML; export the task as COCO, Pascal VOC or Ultralytics YOLO")
    if root.tag != "annotation":
        raise DataError(f"{where} is no Pascal VOC annotation: its first element is {quote(root.tag)}")
    return Labels(image, [_read_object(one, where) for one in root.findall("object")], _read_size(root))


def _read_object(element: Element, where: str) -> Box:
    label = label_name(element.findtext("name"), where)
    box = element.find("bndbox")
    try:
        x0, y0, x1, y1 = numbers(box.findtext(side) if box is not None else None for side in _CORNERS)
    except (TypeError, ValueError):
        return Box(label, None)
    return Box(label, corners(x0 - 1, y0 - 1, x1, y1))


def _read_size(root: Element) -> tuple[int, int] | None:
    """Return width and height as annotated; None where they are missing or, as some tools write them, 0."""
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if 0 < width < 65536 and 0 < height < 65536 else None
