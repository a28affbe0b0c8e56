"""The kernels of `qdet.kernels` beside torch's operations, forward and backward, in turn.

    python -m benchmarks.kernels --out kernels.json
    python -m benchmarks.kernels --compare kernels.json

A GPU takes bf16 and the sizes of training. A CPU has Triton's interpreter alone (TRITON_INTERPRET=1), whose
times say nothing: there it shows with toy sizes that the program runs.
"""

import importlib.metadata
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.kernel_operations import OPERATIONS, SIZES, Case, Variant, describe
from benchmarks.machine import describe_machine
from benchmarks.timing import Task, take_turns
from qdet.kernels.agreement import relative_error
from qdet.kernels.choice import has_triton, interpreting, kernels

Operation = Literal["sampling_3d", "adaptive_mixing", "deformable_attention", "focal_loss", "overlap_bias"]
LARGEST_DIFFERENCE = {"bfloat16": 0.1, "float32": 1e-3, "float64": 1e-8}
"""Between a kernel and torch, relative to the norm: in bf16 ReLUs switch where torch rounds more."""


def main(
    *,
    sizes: Literal["16 images", "2 images", "toy"] | None = None,
    operations: tuple[Operation, ...] = tuple(OPERATIONS),  # type: ignore[assignment]  # its keys
    variants: tuple[Variant, ...] | None = None,
    dtype: Literal["bfloat16", "float32"] | None = None,
    rounds: int = 20,
    out: Path | None = None,
    compare: Path | None = None,
) -> None:
    """Print median, fastest and slowest time of each variant, and ratios to torch's operations.

    Args:
        sizes: Shapes; by default 16 images on a GPU, toy on a CPU.
        operations: Which to measure.
        variants: Which ways, all by default; compiling only on a GPU.
        dtype: What feature maps are read in; by default bfloat16 on a GPU, float32 on a CPU.
        rounds: Times each variant runs, after one for warm-up.
        out: A file for the numbers, as JSON.
        compare: Such a file of an earlier run, to print ratios to it.
    """
    gpu = torch.cuda.is_available()
    if not has_triton() or not (gpu or interpreting()):
        raise SystemExit(
            "benchmarks.kernels needs Triton and a GPU; TRITON_INTERPRET=1 runs toy sizes without"
        )
    if out and not out.parent.is_dir():
        raise SystemExit(f"--out {out}: the folder {out.parent} does not exist; make it first")
    device = torch.device("cuda" if gpu else "cpu")
    variants = variants or ("torch", "triton", "deterministic", *(("compile",) if gpu else ()))
    size = SIZES[sizes or ("16 images" if gpu else "toy")]
    kind = getattr(torch, dtype or ("bfloat16" if gpu else "float32"))
    report = {
        "machine": describe_machine() | {"triton": importlib.metadata.version("triton")},
        "inputs": describe(size, kind),
        "rows": [],
    }
    before = _load(compare, report) if compare else {}
    print(json.dumps({k: report[k] for k in ("machine", "inputs")}))
    print(
        "| operation | variant | median, ms | fastest | slowest | torch's time | difference | earlier time |"
    )
    print("| --- | --- | --: | --: | --: | --: | --: | --: |")
    for name in operations:
        case = OPERATIONS[name](size, kind, device)
        for row in measure_case(
            name, case, variants, rounds, LARGEST_DIFFERENCE[describe(size, kind)["dtype"]]
        ):
            report["rows"].append(row)
            print(_line(row, before.get((name, row["variant"]))), flush=True)
    if out:
        out.write_text(json.dumps(report))


def measure_case(
    name: str, case: Case, variants: tuple[Variant, ...], rounds: int, largest_difference: float
) -> list[dict[str, Any]]:
    """Measure the variants of an operation in turn; those that compute something else are left out, aloud."""
    with kernels("triton"):
        kernel_runs = case.runs()
    tasks: dict[str, Task] = {}
    wanted, differences = differentiate(case, case.torch), {}
    for variant in variants:
        task = case.variant(variant)
        if task is None or (variant in ("triton", "deterministic") and not kernel_runs):
            continue
        found = differentiate(case, task)
        differences[variant] = max(relative_error(a, b) for a, b in zip(found, wanted, strict=True))
        if differences[variant] <= largest_difference:
            tasks[variant] = lambda task=task: differentiate(case, task)
        else:
            print(f"{name}: {variant} differs by {differences[variant]:.1e} from torch and is not measured")
    times = take_turns(tasks, case.leaves[0].device, rounds=rounds, warmup=1)
    base = times.get("torch")
    return [
        {"operation": name, "variant": variant, "n": len(ms), "median_ms": statistics.median(ms)}
        | {"min_ms": min(ms), "max_ms": max(ms), "difference": differences[variant]}
        | {"torch_over_this": _ratio(base, ms)}
        for variant, ms in times.items()
    ]


def differentiate(case: Case, task: Callable[[], Tensor]) -> tuple[Tensor, ...]:
    """Return the result and the gradients of all leaves, for a gradient of ones and minus ones in turn."""
    result = task()
    grad = torch.ones(result.shape, dtype=result.dtype, device=result.device)
    grad.view(-1)[::2] = -1
    return result.detach(), *torch.autograd.grad(result, case.leaves, grad)


def _ratio(base: list[float] | None, here: list[float]) -> float | None:
    """Return the median over rounds of torch's time relative to this one's."""
    return statistics.median(a / b for a, b in zip(base, here, strict=True)) if base else None


def _load(path: Path, report: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Return the medians of an earlier run of the same inputs on the same card, or processor without one."""
    try:
        earlier = json.loads(path.read_text())
        rows = {(row["operation"], row["variant"]): float(row["median_ms"]) for row in earlier["rows"]}
        machine, inputs = earlier["machine"], earlier["inputs"]
        pairs = [(f"inputs.{key}", inputs.get(key), value) for key, value in report["inputs"].items()]
        here = report["machine"]
        part = "card" if machine["card"] or here["card"] else "processor"
        pairs.append((part, machine[part], here[part]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"--compare {path}: not the JSON of this benchmark ({error})") from None
    for name, old, new in pairs:
        if old != new:
            raise SystemExit(
                f"--compare {path}: its {name} is {old!r}, here it is {new!r}; measure both alike"
            )
    return rows


def _line(row: dict[str, Any], earlier: float | None) -> str:
    numbers = [f"{row[key]:.3f}" for key in ("median_ms", "min_ms", "max_ms")]
    ratio = row["torch_over_this"]
    numbers += [
        "" if ratio is None else f"{ratio:.2f}",
        f"{row['difference']:.1e}",
        "" if earlier is None else f"{earlier / row['median_ms']:.2f}",
    ]
    return f"| {row['operation']} | {row['variant']} | {' | '.join(numbers)} |"


if __name__ == "__main__":
    tyro.cli(main)
