"""The files that authors published of models in the zoo: where each is, its licence, its AP, how to tell it.

Links and APs are those of the authors' own pages. Where they published weights of another run than the
paper's, as AdaMixer's and Deformable DETR's did, it is the AP of those weights. Only DETR's authors publish
digests, eight digits of each in its name; of the others the digest of the first download is kept. Where no
link leads to the file itself, `url` is None, and the page says how to get it.
"""

from dataclasses import dataclass

TOLERANCE = 0.05
"""Difference of AP in points up to which a published number counts as reproduced: it has one decimal."""
IMAGES = 5000
"""Images of COCO val2017, which all these numbers are of."""


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of weights."""

    url: str | None
    """What to download it from; None where only a person can."""
    page: str
    """Where the authors link it, for people."""
    licence: str
    ap: float
    """AP in percent on COCO val2017 of these very weights, as that page gives it."""
    sha256: str | None = None
    """Its digest, or the first digits of it; None where nobody publishes it."""
    megabytes: int | None = None
    """Its size as published."""
    dc5: bool = False
    """Whether the backbone's last stage is dilated, for files that do not say it."""


_DETR = "https://github.com/facebookresearch/detr"
_DEFORMABLE = "https://github.com/fundamentalvision/Deformable-DETR"
_CONDITIONAL = "https://github.com/Atten4Vis/ConditionalDETR"
_ANCHOR = "https://github.com/megvii-research/AnchorDETR"
_DAB = "https://github.com/IDEA-Research/DAB-DETR"
_SPARSE = "https://github.com/PeizeSun/SparseR-CNN"
_ADAMIXER = "https://github.com/MCG-NJU/AdaMixer"


def _detr(name: str, digits: str, ap: float, megabytes: int) -> PublishedFile:
    return PublishedFile(
        url=f"https://dl.fbaipublicfiles.com/detr/{name}-{digits}.pth",
        page=_DETR,
        licence="Apache-2.0",
        ap=ap,
        sha256=digits,
        megabytes=megabytes,
        dc5="dc5" in name,
    )


def _drive(
    page: str, file_id: str, ap: float, *, licence: str = "Apache-2.0", dc5: bool = False
) -> PublishedFile:
    url = f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t"
    return PublishedFile(url=url, page=page, licence=licence, ap=ap, dc5=dc5)


def _conditional(file: str, ap: float, *, page: str = _CONDITIONAL, dc5: bool = False) -> PublishedFile:
    share = "https://pkueducn-my.sharepoint.com/:u:/g/personal/pkucxk_pkueducn_onmicrosoft_com"
    url = f"{share}/{file}&download=1"
    return PublishedFile(url=url, page=page, licence="Apache-2.0", ap=ap, dc5=dc5)


def _by_hand(page: str, ap: float, *, licence: str = "Apache-2.0", dc5: bool = False) -> PublishedFile:
    return PublishedFile(url=None, page=page, licence=licence, ap=ap, dc5=dc5)


FILES: dict[str, PublishedFile] = {
    "detr_r50": _detr("detr-r50", "e632da11", 42.0, 159),
    "detr_r50_dc5": _detr("detr-r50-dc5", "f0fb7ef5", 43.3, 159),
    "detr_r101": _detr("detr-r101", "2c7b67e5", 43.5, 232),
    "detr_r101_dc5": _detr("detr-r101-dc5", "a2e86def", 44.9, 232),
    "detr_r50_50ep": _conditional("EWH1OGLL4N5DufAj4ncYuigB8q62uEw6I10G-d7OD7q09A?e=vKOlb6", 34.8),
    "detr_r101_50ep": _conditional("EaGY26sT-zhPtMIVZxeT8iEBjiN24_LDZPXb8EGi9dBXpw?e=p6C8dB", 36.9),
    "conditional_detr_r50": _conditional("EXaUwp6Qt29Mub0bVOExLusBlyqqyO7qCIQfVWclbOGulw?e=ILR0sI", 41.0),
    "conditional_detr_r50_dc5": _conditional(
        "EWq9mdPp7fdCgpW9M_40xEYBiOuTyIJdzbaTAxQZ7URPQw?e=cZzb6O", 43.7, dc5=True
    ),
    "conditional_detr_r101": _conditional("EXTH01VuhzNEn9W_5Zg_dsEBkutCNBOoZYhV1ew7UVwo8Q?e=0cYF8t", 42.8),
    "conditional_detr_r101_dc5": _conditional(
        "EbwdBQK26Q5Ev535hVKcv0wB2TJerrBieD3Fk3xGBSPa9Q?e=wKdIsm", 45.0, dc5=True
    ),
    "deformable_detr_r50": _drive(_DEFORMABLE, "1nDWZWHuRwtwGden77NLM9JoWe-YisJnA", 44.5),
    "deformable_detr_r50_single_scale": _drive(_DEFORMABLE, "1WEjQ9_FgfI5sw5OZZ4ix-OKk-IJ_-SDU", 39.4),
    "deformable_detr_r50_single_scale_dc5": _drive(
        _DEFORMABLE, "1m_TgMjzH7D44fbA-c_jiBZ-xf-odxGdk", 41.5, dc5=True
    ),
    "deformable_detr_r50_refine": _drive(_DEFORMABLE, "1JYKyRYzUH7uo9eVfDaVCiaIGZb5YTCuI", 46.2),
    "deformable_detr_r50_two_stage": _drive(_DEFORMABLE, "15I03A7hNTpwuLNdfuEmW9_taZMNVssEp", 46.9),
    "anchor_detr_r50": _drive(_ANCHOR, "1ktLJyw4PGdaXkOn61W537Z67WHcttXDs", 42.1),
    "anchor_detr_r50_dc5": _drive(_ANCHOR, "1lJZWdIlHj6KKmAdU28Y01tTyO0hc6Jxs", 44.3, dc5=True),
    "anchor_detr_r101": _drive(_ANCHOR, "1eBLYzlKWwSF_RRcfjgRXqIplRKetsvtg", 43.5),
    "anchor_detr_r101_dc5": _drive(_ANCHOR, "1irmZPSALME4Nht3_qhM9WLExDyO9Sj-J", 45.1, dc5=True),
    "dab_detr_r50": _by_hand(_DAB, 42.2),
    "dab_detr_r50_3pat": _by_hand(_DAB, 42.6),
    "dab_detr_r50_dc5": _by_hand(_DAB, 44.5, dc5=True),
    "dab_detr_r50_dc5_fixxy": _by_hand(_DAB, 44.7, dc5=True),
    "dab_detr_r50_dc5_3pat": _by_hand(_DAB, 45.7, dc5=True),
    "sparse_rcnn_r50_100": _by_hand(_SPARSE, 42.8, licence="MIT"),
    "sparse_rcnn_r50_300": _by_hand(_SPARSE, 45.0, licence="MIT"),
    "sparse_rcnn_r101_100": _by_hand(_SPARSE, 44.1, licence="MIT"),
    "sparse_rcnn_r101_300": _by_hand(_SPARSE, 46.4, licence="MIT"),
    "adamixer_r50": _drive(_ADAMIXER, "1v3rDczN2VXSgRYmSX0-XRy8racgpfed2", 42.6, licence="MIT"),
    "adamixer_r50_300": _drive(_ADAMIXER, "1Qj3sbcFF1zV8oeSfAWzZnYqv8mXWN8wJ", 46.8, licence="MIT"),
    "adamixer_r101": _drive(_ADAMIXER, "1dx1-FZ20VDX7nCHtXh2_5AMrSysKEGK8", 48.1, licence="MIT"),
    "adamixer_x101_dcn": _drive(_ADAMIXER, "1vbIYuq8hvebP-DkqyFCMFVh5CSBjZ8cA", 49.7, licence="MIT"),
}
"""By the model's name in the zoo."""
