"""Detectors that the papers compare theirs with and that qdet does not have: numbers quoted from the papers.

And numbers of its own detectors that the papers measured elsewhere: on another machine, by another protocol.
"""

from dataclasses import dataclass

from qdet.recipes import Published

DEFORMABLE = "Deformable DETR's table 1"
TEST_DEV = "Deformable DETR's table 3, test-dev"
TTA = "Deformable DETR's table 3, test-dev with test-time augmentation"
SMCA = "SMCA's comparison"
ADAMIXER = "AdaMixer's comparison"
COSTS = "AdaMixer's table of costs"


@dataclass(frozen=True)
class Quoted:
    """One row of a paper's table."""

    detector: str
    backbone: str
    published: Published
    epochs: int | None = None
    """Passes over the training images; None where the table does not say."""


COMPARATORS = (
    Quoted(
        "Faster R-CNN + FPN",
        "ResNet-50",
        Published(
            ap=42.0,
            columns=(62.1, 45.5, 26.6, 45.4, 53.4),
            params=42,
            macs=180,
            fps=26,
            gpu_hours=380,
            source=DEFORMABLE,
        ),
        epochs=109,
    ),
    Quoted(
        "Faster R-CNN", "ResNet-50", Published(ap=41.8, params=42, macs=207, fps=17, hours=16, source=COSTS)
    ),
    Quoted(
        "FCOS",
        "ResNeXt-101",
        Published(ap=44.7, columns=(64.1, 48.4, 27.6, 47.5, 55.6), source=TEST_DEV),
    ),
    Quoted(
        "ATSS",
        "ResNeXt-101-DCN",
        Published(ap=50.7, columns=(68.9, 56.3, 33.2, 52.9, 62.4), source=TTA),
    ),
    Quoted(
        "TSD",
        "SENet154-DCN",
        Published(ap=51.2, columns=(71.9, 56.0, 33.8, 54.8, 64.2), source=TTA),
    ),
    Quoted(
        "EfficientDet-D7",
        "EfficientNet-B6",
        Published(ap=52.2, columns=(71.4, 56.3, None, None, None), source=TEST_DEV),
    ),
    Quoted(
        "Deformable DETR, two-stage",
        "ResNeXt-101-DCN",
        Published(ap=52.3, columns=(71.9, 58.1, 34.4, 54.4, 65.6), source=TTA),
    ),
    Quoted("UP-DETR", "ResNet-50", Published(ap=42.8, source=SMCA), epochs=300),
    Quoted("TSP-FCOS", "ResNet-50", Published(ap=43.1, source=SMCA), epochs=38),
    Quoted("TSP-RCNN", "ResNet-50", Published(ap=43.8, source=SMCA), epochs=38),
    Quoted("TSP-RCNN", "ResNet-50", Published(ap=45.0, source=SMCA), epochs=96),
    Quoted(
        "Anchor DETR",
        "ResNet-50-DC5",
        Published(ap=44.2, columns=(64.7, 47.5, 24.7, 48.2, 60.6), macs=151, source=ADAMIXER),
        epochs=50,
    ),
    Quoted(
        "DETR",
        "ResNet-50-DC5",
        Published(ap=43.3, params=41, macs=187, fps=11, hours=204, source=COSTS),
        epochs=500,
    ),
    Quoted(
        "Deformable DETR, two-stage",
        "ResNet-50",
        Published(ap=46.2, test_dev=46.9, params=40, macs=173, fps=12, hours=106, source=COSTS),
        epochs=50,
    ),
    Quoted(
        "Sparse R-CNN",
        "ResNet-50",
        Published(ap=45.0, params=110, macs=174, fps=16, hours=30, source=COSTS),
        epochs=36,
    ),
)
"""In the order of the papers. `qdet evaluate RUN --tta` is the augmentation of the two-stage row with it."""
