"""The whole page."""

from html import escape

from qdet.evaluation.analysis.label_issues import MissingLabel, WrongLabel
from qdet.evaluation.analysis.worst import WorstImage
from qdet.evaluation.findings import Findings
from qdet.evaluation.formats import count, score
from qdet.evaluation.html import sections
from qdet.evaluation.html.photos import Outline, Photos, gallery, legend, tag
from qdet.evaluation.html.style import CSS, SCRIPT

SHOWN = 12
"""Images per gallery."""


def page(findings: Findings, photos: Photos) -> str:
    """Return the HTML of a report; it refers to nothing outside itself.

    Args:
        findings: The numbers.
        photos: Images to draw boxes on, by id; those that are not there are left out.
    """
    title = f"{escape(findings.model)} on {escape(findings.data or 'the data')}"
    counted = ", ".join(
        (
            count(findings.images, "image"),
            count(findings.objects, "object"),
            count(len(findings.curves.per_class), "class", "classes"),
            count(findings.detections, "detection"),
        )
    )
    compared = "" if findings.comparison is None else sections.comparison(findings.comparison)
    body = "".join(
        (
            f'<h1>{title}</h1><p class="lead">{counted}</p>',
            sections.cards(findings),
            compared,
            sections.errors_and_calibration(findings),
            sections.slices(findings),
            sections.classes(findings),
            sections.curves(findings),
            sections.confusion(findings.confusion),
            _worst(findings, photos),
            _labels(findings, photos),
            sections.seconds(findings),
            f"<footer>{_FOOTER}</footer>",
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head><body><main>{body}</main>"
        f"<script>{SCRIPT}</script></body></html>"
    )


def wanted_photos(findings: Findings) -> list[int]:
    """Ids of the images that `page` shows, each once."""
    worst = (*findings.worst.false[:SHOWN], *findings.worst.missed[:SHOWN])
    labels = (*findings.labels.wrong[:SHOWN], *findings.labels.missing[:SHOWN])
    return list(dict.fromkeys(one.image_id for one in (*worst, *labels)))


def _worst(findings: Findings, photos: Photos) -> str:
    parts = []
    for title, images in (
        ("Most false positives", findings.worst.false),
        ("Most missed objects", findings.worst.missed),
    ):
        items = [(one.image_id, _caption(one), _outlines(one)) for one in images[:SHOWN]]
        shown = gallery(items, photos)
        if shown:
            parts.append(f'<h3 style="margin-top:14px">{title}</h3>{shown}')
    if not parts:
        return ""
    lead = "At the best threshold of every class. Point at a box to read its class and score."
    key = legend(("correct", "false", "missed", "found"))
    return sections.section("Worst images", lead, key + "".join(parts))


def _outlines(one: WorstImage) -> list[Outline]:
    return [Outline(box.kind, tag(box.kind, box.name, box.score), box.box_xywh) for box in one.boxes]


def _caption(one: WorstImage) -> str:
    return (
        f"<b>image {one.image_id}</b><br>{one.correct} correct, {count(one.false, 'false positive')}, "
        f"{one.missed} missed"
    )


def _labels(findings: Findings, photos: Photos) -> str:
    found = findings.labels
    if not found.wrong and not found.missing:
        return ""
    lead = (
        f"Where a confident detection disagrees with the annotations: {found.wrong_total:,} labels that may "
        f"be wrong, {found.missing_total:,} that may be missing. The model may be the one that errs: have a "
        "person look. The JSON holds up to a hundred candidates of each kind."
    )
    parts = [
        f'<h3 style="margin-top:14px">{title}</h3>{shown}'
        for title, shown in (
            ("Perhaps wrong", gallery([_wrong(one) for one in found.wrong[:SHOWN]], photos)),
            ("Perhaps missing", gallery([_missing(one) for one in found.missing[:SHOWN]], photos)),
        )
        if shown
    ]
    return sections.section("Labels to check", lead, "".join(parts))


def _wrong(one: WrongLabel) -> tuple[int, str, list[Outline]]:
    said = f"labelled {one.label}, perhaps {one.suggested} ({score(one.score)})"
    caption = f"<b>image {one.image_id}, annotation {escape(str(one.annotation_id))}</b><br>{escape(said)}"
    return one.image_id, caption, [Outline("suggested", said, one.box_xywh)]


def _missing(one: MissingLabel) -> tuple[int, str, list[Outline]]:
    said = f"perhaps {one.suggested} ({score(one.score)}), not labelled"
    caption = f"<b>image {one.image_id}</b><br>{escape(said)}"
    return one.image_id, caption, [Outline("suggested", said, one.box_xywh)]


_FOOTER = (
    "AP is COCO's, averaged over IoU 0.50 to 0.95; a dash stands for what cannot be measured, such as AP of "
    "a class without objects. Intervals are of a bootstrap over images. Made by qdet evaluate."
)
