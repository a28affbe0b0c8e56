"""Compiles the backbone and encoder of one variant and prints how far its predictions move.

First boxes, then logits, each as a share of the largest.

    python -m tests.support.compiled detr_r101

A process of its own: types are checked at run time under pytest, which torch.compile cannot follow.
"""

import sys

import torch

from tests.support.detector_variants import CLASSES, SIZES, VARIANTS, images, shaken


def main(variant: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    detector = shaken(VARIANTS[variant][0].build(CLASSES)).eval()
    with torch.no_grad():
        plain = detector(images(), SIZES)[-1]
        for name in ("backbone", "encoder"):
            if isinstance(part := getattr(detector, name, None), torch.nn.Module):
                part.compile()
        compiled = detector(images(), SIZES)[-1]
    for a, b in ((compiled.boxes_xyxy, plain.boxes_xyxy), (compiled.logits, plain.logits)):
        print(((a - b).abs().max() / b.abs().max()).item())


if __name__ == "__main__":
    main(sys.argv[1])
