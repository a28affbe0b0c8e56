"""The sections of a report that show numbers."""

from html import escape

import numpy as np
from jaxtyping import Float64

from qdet.evaluation.analysis.comparison import Comparison
from qdet.evaluation.analysis.confusion import Confusion
from qdet.evaluation.analysis.curves import GRID
from qdet.evaluation.analysis.slices import Slice
from qdet.evaluation.coco import METRICS
from qdet.evaluation.findings import Findings
from qdet.evaluation.formats import count, interval, percent, score, signed
from qdet.evaluation.html.charts import (
    Bar,
    Series,
    bars,
    forest_chart,
    heat_map,
    line_chart,
    reliability_chart,
    spark,
)

MOST_CLASSES = 60
"""Classes in the confusion matrix."""
_MEANINGS = {
    "classification": "right place, wrong class",
    "localization": "right class, IoU below 0.5",
    "both": "wrong class, IoU below 0.5",
    "duplicate": "an object found again",
    "background": "nothing there",
    "missed": "not found at all",
}


def section(title: str, lead: str, body: str) -> str:
    """Frame a part of the page; `title` and `lead` are HTML."""
    return f'<section><h2>{title}</h2><p class="lead">{lead}</p>{body}</section>'


def cards(findings: Findings) -> str:
    """COCO's twelve numbers."""
    whole = findings.intervals.overall["AP"]
    first = (
        f'<div class="card main"><b>{percent(whole.value)}</b><span>AP, 95% interval '
        f"{interval(whole.low, whole.high)}</span></div>"
    )
    rest = [
        f'<div class="card"><b>{percent(getattr(findings.coco, name))}</b><span>{name}</span></div>'
        for name in METRICS[1:]
    ]
    return f'<div class="cards">{first}{"".join(rest)}</div>'


def comparison(found: Comparison) -> str:
    """Two models: a table of the metrics, and the change of every class."""
    rows = []
    for name, change in found.metrics.items():
        kind = "" if not change.certain else "good" if change.difference > 0 else "bad"
        rows.append(
            f"<tr><td>{name}</td><td>{percent(change.first)}</td><td>{percent(change.second)}</td>"
            f'<td class="{kind}">{signed(change.difference)}</td><td>{interval(change.low, change.high)}</td>'
            f"<td>{percent(change.better, 0)}</td></tr>"
        )
    head = (
        "<th>metric</th><th>first</th><th>second</th><th>change</th><th>95% interval</th><th>better, %</th>"
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    ranked = sorted(
        (item for item in found.per_class.items() if not np.isnan(item[1].difference)),
        key=lambda item: item[1].difference,
    )
    forest = forest_chart([(name, c.difference, c.low, c.high) for name, c in ranked])
    lead = (
        f"Second: <b>{escape(found.second)}</b>, minus the first: {escape(found.first)}. Both saw the "
        f"same images; intervals are of {found.draws} paired bootstrap draws. Coloured changes are more than "
        "chance."
    )
    return section(
        "Comparison", lead, f'<div class="two"><div>{table}</div><div class="scroll">{forest}</div></div>'
    )


def errors_and_calibration(findings: Findings) -> str:
    """What costs AP, and whether scores can be trusted."""
    return f'<section><div class="two">{_errors(findings)}{_calibration(findings)}</div></section>'


def _errors(findings: Findings) -> str:
    rows = [Bar(kind, cost, _MEANINGS[kind]) for kind, cost in findings.errors.cost.items()] + [
        Bar("no false positives", findings.errors.false_positives, "all the kinds but missed", "grey"),
        Bar("no false negatives", findings.errors.false_negatives, "every object found", "grey"),
    ]
    return (
        "<div><h3>What costs AP</h3><p>Points of AP50 that mending each kind of error alone would gain "
        f"(TIDE). Kinds hide each other, so they do not add up.</p>{bars(rows)}</div>"
    )


def _calibration(findings: Findings) -> str:
    found = findings.calibration
    return (
        "<div><h3>Calibration</h3><p>How many of the detections of a score are right. Below the line the "
        f"model is too sure. Expected calibration error {percent(found.ece)} points, largest "
        f"{percent(found.mce)}.</p>"
        f"{reliability_chart(found.edges, found.precisions, found.counts)}</div>"
    )


def curves(findings: Findings) -> str:
    """Precision over recall and F1 over score, a line per class."""
    named = [(name, curve) for name, curve in findings.curves.per_class.items() if curve.objects]
    every = ("all classes", findings.curves.overall)
    lines = list(enumerate([*named, every]))
    recall = [_series(i, len(named), name, curve.precision_by_recall) for i, (name, curve) in lines]
    f1 = [_series(i, len(named), name, curve.f1_by_score) for i, (name, curve) in lines]
    best = findings.curves.overall
    return section(
        "Precision, recall and F1",
        "At IoU 0.5, a line per class; point at a line for its name. The bold line takes all classes as one "
        f"list: its best single threshold is <b>{score(best.threshold)}</b>, with a precision of "
        f"{percent(best.precision)}, a recall of {percent(best.recall)} and an F1 of {percent(best.f1)}.",
        f'<div class="two"><div>{line_chart(recall, x="recall", y="precision")}</div>'
        f"<div>{line_chart(f1, x='score threshold', y='F1')}</div></div>",
    )


def _series(i: int, classes: int, name: str, y: Float64[np.ndarray, " 101"]) -> Series:
    return Series(name, GRID, y, strong=i == classes, hue=360 * i / max(1, classes))


def classes(findings: Findings) -> str:
    """The table of classes, which sorts by a click."""
    head = (
        '<th class="text">class</th><th>objects</th><th>AP</th><th>95% interval</th><th>AP50</th>'
        "<th>threshold</th><th>precision</th><th>recall</th><th>F1</th><th>costliest error</th>"
        "<th>PR curve</th><th>F1 curve</th>"
    )
    ranked = findings.coco.ranked_classes()
    rows = "".join(_class_row(findings, name) for name in ranked)
    return section(
        f"Classes ({len(ranked)})",
        "Precision, recall and F1 are at the score threshold with the best F1 of the class, measured on "
        "these images. Click a heading to sort.",
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>",
    )


def _class_row(findings: Findings, name: str) -> str:
    curve, bounds = findings.curves.per_class[name], findings.intervals.per_class[name]
    costs = findings.errors.per_class[name]
    worst = max(costs, key=lambda kind: costs[kind])
    numbers = [
        f"{curve.objects:,}",
        percent(findings.coco.per_class[name]),
        interval(bounds.low, bounds.high),
        percent(findings.coco.per_class_AP50[name]),
        score(curve.threshold),
        *(percent(value) for value in (curve.precision, curve.recall, curve.f1)),
        f"{worst} {percent(costs[worst])}" if costs[worst] > 0 else "-",
        spark(curve.precision_by_recall),
        spark(curve.f1_by_score),
    ]
    cells = "".join(
        f'<td data-value="{curve.objects}">{n}</td>' if i == 0 else f"<td>{n}</td>"
        for i, n in enumerate(numbers)
    )
    return f'<tr><td class="text">{escape(name)}</td>{cells}</tr>'


def slices(findings: Findings) -> str:
    """AP by size and by crowding."""
    divisions = (
        ("Side of the object, pixels", findings.slices.size),
        ("Objects in the image", findings.slices.number),
        ("Largest overlap of two objects, IoU", findings.slices.overlap),
    )
    body = "".join(f"<div><h3>{title}</h3>{_slice_bars(parts)}</div>" for title, parts in divisions if parts)
    lead = "AP of parts of the dataset. Small parts are uncertain: mind the number of objects."
    return section("AP by size and by crowding", lead, f'<div class="three">{body}</div>')


def _slice_bars(parts: tuple[Slice, ...]) -> str:
    return bars([Bar(one.name, one.AP, count(one.objects, "object")) for one in parts])


def confusion(found: Confusion) -> str:
    """The confusion matrix, of many classes those that are confused most."""
    shown = _most_confused(found)
    pairs = [
        f'<tr><td>{escape(actual)}</td><td class="text">{escape(predicted)}</td><td>{n:,}</td></tr>'
        for actual, predicted, n in found.most_common(15)
    ]
    head = '<tr><th>object</th><th class="text">taken for</th><th>times</th></tr>'
    table = f"<table><thead>{head}</thead><tbody>{''.join(pairs)}</tbody></table>" if pairs else ""
    part = f" Shown are the {len(shown.names)} of {len(found.names)} classes that are confused most."
    part = part if len(shown.names) < len(found.names) else ""
    return section(
        "Confusion",
        "Rows are objects, columns what they were taken for, at the best thresholds and IoU 0.5; shaded by "
        f"share of the row. The last column was missed, the last row is where nothing is.{part}",
        f'<div class="side"><div>{heat_map(shown.names, shown.counts)}</div><div>{table}</div></div>',
    )


def _most_confused(found: Confusion) -> Confusion:
    if len(found.names) <= MOST_CLASSES:
        return found
    wrong = found.counts[:-1, :-1] - np.diag(np.diag(found.counts)[:-1])
    chosen = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:MOST_CLASSES])
    both = np.append(chosen, len(found.names))
    return Confusion(tuple(found.names[i] for i in chosen), found.counts[np.ix_(both, both)])


def seconds(findings: Findings) -> str:
    """Time by stage."""
    if not findings.seconds:
        return ""
    total = sum(findings.seconds.values())
    rows = [
        Bar(name, s / total if total else 0.0, f"{1e3 * s / max(1, findings.images):.1f} ms per image")
        for name, s in findings.seconds.items()
    ]
    rate = findings.images / total if total else 0.0
    lead = f"{total:.1f} seconds for {count(findings.images, 'image')}: {rate:.1f} images per second."
    return section("Time", lead, f'<div style="max-width:560px">{bars(rows, unit=" %")}</div>')
