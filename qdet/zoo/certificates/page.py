"""A certificate as Markdown, for the terminal and for docs/certificates.md."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qdet.zoo.certificates.certificate import FEWEST, FLOOR, Certificate, Pair, certify
from qdet.zoo.certificates.intervals import LEVEL
from qdet.zoo.certificates.results import Results
from qdet.zoo.certificates.tables import RATES, Claim, find

HEAD = f"""
# Certificates

Does the order of a paper's table hold at small scale, and how certain is that? `qdet certify TABLE` trains
the rows of a published table at demo size, every row with the same seeds: seed by seed, rows start from the
same backbone and see the same images in the same order with the same augmentation. This page is
made of the JSON files in `docs/certificates`, by `qdet certify --page`.

Intervals hold the mean over seeds at {LEVEL:.0%}: expanded percentiles of a bootstrap over seeds.
Neighbours in the paper's order are compared seed by seed. An order is *reproduced* if the whole interval of
the difference is above zero, *contradicted* if it is below, else *undecided*. A table with fewer than
{FEWEST} seeds in a row, or with a row below AP {FLOOR}, decides nothing. Rows of `race` first try the
learning rates {", ".join(f"{rate:g}" for rate in RATES)} with a seed of their own; its paper APs are those
after 12 epochs, where they are published. `python -m benchmarks.race --table TABLE` draws AP over steps,
multiply-accumulates and CPU time, with bands.

These are small models on rendered images of 128 pixels: a contradiction says that the order is no law, not
that the paper is wrong on COCO.
"""


def render(claim: Claim, results: Results) -> str:
    """Return the tables of one certificate: its rows, its neighbouring pairs, the verdict."""
    found = certify({row.name: row.published for row in claim.rows}, results.rows)
    lines = [*_rows(found, results), "", *_sources(results), *_pairs(found.pairs), _verdict(found)]
    return "\n".join(lines) + "\n"


def _rows(found: Certificate, results: Results) -> Iterator[str]:
    yield "| row | AP in the paper | AP here | seeds | M parameters | GMACs | learning rate |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for line in found.lines:
        row = results.rows[line.name]
        paper = "-" if line.paper is None else f"{line.paper:g}"
        size = f"{row.parameters / 1e6:.2f} | {row.macs / 1e9:.3f} | {row.rate:g}"
        yield f"| {line.name} | {paper} | {line.ap} | {line.seeds} | {size} |"


def _sources(results: Results) -> Iterator[str]:
    taken = [f"`{name}` (`{row.source}`)" for name, row in results.rows.items() if row.source]
    if taken:
        yield f"Trained once, for another table that has the same row: {', '.join(taken)}."
        yield ""


def _pairs(pairs: Sequence[Pair]) -> Iterator[str]:
    if not pairs:
        return
    yield "| neighbours in the paper's order | in the paper | here, paired by seed | order |"
    yield "| --- | ---: | ---: | --- |"
    yield from map(_pair, pairs)
    yield ""


def _pair(pair: Pair) -> str:
    here = pair.difference
    shown = f"{here.mean:+.3f} [{here.low:+.3f}, {here.high:+.3f}]"
    return f"| {pair.lower} < {pair.higher} | +{pair.paper:.1f} | {shown} | {pair.verdict} |"


def _verdict(found: Certificate) -> str:
    why = f" ({found.why})" if found.why else ""
    return f"Order of the table: **{found.verdict}**{why}."


def render_all(files: Mapping[str, Path]) -> str:
    """Return the page of all tables that have results.

    Args:
        files: Name of each table to the file of its results.
    """
    parts = [HEAD.strip()] + ([] if files else ["No table has been trained yet."])
    for name, path in files.items():
        claim, results = find(name), Results.read(path)
        what = f"What differs is `{claim.setting}`." if claim.setting else "Rows are models."
        parts += [f"## {name}", f"{what} {_scale(results)}", render(claim, results).strip()]
    return "\n\n".join(parts) + "\n"


def _scale(results: Results) -> str:
    scale, rows = results.scale, results.rows.values()
    days = sorted({row.day for row in rows})
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "never"
    machines = "; ".join(sorted({row.machine for row in rows}))
    return (
        f"{scale['steps']} steps of {scale['images_per_step']} images, {scale['precision']}; "
        f"{machines}; {when}{_hours(results)}. Again, or further: "
        f"`qdet certify {results.table} --steps {scale['steps']}`"
    )


def _hours(results: Results) -> str:
    """Return how long the rows took that were trained for this table, as far as it was recorded."""
    recorded = [row.hours for row in results.rows.values() if row.hours is not None and not row.source]
    if not recorded:
        return ""
    return f", {sum(recorded):.1f} hours for {len(recorded)} row{'s' * (len(recorded) > 1)}"
