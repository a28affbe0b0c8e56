"""Fetch, convert and evaluate every published file, and compare its AP with its authors'.

    python -m benchmarks.published --data data/coco/val2017
    python -m benchmarks.published --data data/coco/val2017 --names detr_r50 adamixer_r50 --files downloads

Each result is written to `OUT/results.json` as it comes, and the next start resumes with what is missing.
Files that lie in `--files` as NAME.pth are not downloaded. It ends with 0 if every AP is equal within 0.05,
which is said of the 5,000 images of COCO val2017 alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from qdet.checkpoint.manifest import MANIFEST
from qdet.convert.published import FILES, TOLERANCE
from qdet.errors import QdetError
from qdet.inference.judging.judge import evaluate
from qdet.inference.load import load
from qdet.launching.commands.models.fetching import fetch
from qdet.storage.atomic import atomic_file

RESULTS = "results.json"
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Check published files."""

    data: Path
    """Shards of COCO val2017."""
    out: Path = Path("weights")
    """Folder that models and results are written to."""
    names: tuple[str, ...] = ()
    """Models to check; by default all that have a file."""
    files: Path | None = None
    """Folder of files that were downloaded by hand, as NAME.pth."""
    device: str = "auto"
    """What to evaluate on."""
    workers: int = 1
    """Processes of an evaluation."""


def run(check: Check) -> list[Result]:
    """Check each model, and return a result for each."""
    file = check.out / RESULTS
    results: dict[str, Result] = json.loads(file.read_text()) if file.is_file() else {}
    names = check.names or tuple(FILES)
    for name in names:
        if "AP" not in results.get(name, {}):
            results[name] = check_one(name, check)
            check.out.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as out:
                out.write(json.dumps(results, indent=1).encode())
        print(describe(name, results[name]), flush=True)
    return [results[name] for name in names]


def check_one(name: str, check: Check) -> Result:
    """Fetch and evaluate one model; an error becomes its result."""
    folder = check.out / name
    by_hand = check.files / f"{name}.pth" if check.files else None
    try:
        if not (folder / MANIFEST).is_file():
            fetch(name, folder, file=by_hand if by_hand and by_hand.is_file() else None)
        report = evaluate(load(folder, device=check.device), check.data, workers=check.workers)
    except QdetError as error:
        return {"error": str(error)}
    if report.published is None:
        return {"error": f"{folder} was not written by `qdet zoo fetch`; remove it"}
    coco = report.coco.as_dict("")
    return {
        **report.published.to_dict(),
        "AP": report.published.ap,
        "all": coco,
        "images": len(report.shards),
    }


def describe(name: str, result: Result) -> str:
    """Say a result in a line."""
    if "error" in result:
        return f"{name}: {result['error']}"
    verdict = {True: "equal", False: "NOT EQUAL", None: "of other images"}[result["equal"]]
    return f"{name}: {result['found']:.2f}, published {result['AP']:.1f}: {verdict} within {TOLERANCE}"


def succeeded(results: list[Result]) -> bool:
    """Whether every AP was found to be the published one."""
    return all(result.get("equal") is True for result in results)


if __name__ == "__main__":
    raise SystemExit(0 if succeeded(run(tyro.cli(Check, description=__doc__))) else 1)
