"""A dataset in Pascal VOC's format, as annotation tools write it."""

from pathlib import Path

import numpy as np
from PIL import Image

OBJECT = """<annotation><filename>{name}.jpg</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>cell</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object></annotation>"""


def write_voc(root: Path, *, images: int) -> None:
    """Write `images` random pictures with one box of 20 x 20 pixels each."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for number in range(images):
        name = f"{number:04d}"
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(OBJECT.format(name=name))
