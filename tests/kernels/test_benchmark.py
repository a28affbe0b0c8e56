"""`benchmarks.kernels` at toy sizes in Triton's interpreter: what it measures, and what it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import kernels as benchmark
from benchmarks.kernel_operations import OPERATIONS, SIZES
from benchmarks.timing import take_turns
from tests.support.interpreter import interpreted

pytestmark = interpreted

FOCAL = {"operations": ("focal_loss",), "rounds": 1}


def test_measures_every_operation_in_turn(tmp_path, capsys):
    benchmark.main(sizes="toy", rounds=1, out=tmp_path / "found.json")
    report = json.loads((tmp_path / "found.json").read_text())
    ways = {name: [r["variant"] for r in report["rows"] if r["operation"] == name] for name in OPERATIONS}
    assert ways == {
        "sampling_3d": ["torch", "triton", "deterministic"],
        "adaptive_mixing": ["torch", "triton"],
        "deformable_attention": ["torch", "triton", "deterministic"],
        "focal_loss": ["torch", "triton"],
        "overlap_bias": ["torch", "triton"],
    }
    assert {"processor", "card", "torch", "triton"} <= report["machine"].keys()
    assert all(row["n"] == 1 and row["difference"] < 1e-5 for row in report["rows"])
    assert sum(row["difference"] > 0 for row in report["rows"]) >= 4  # they are two computations
    assert capsys.readouterr().out.count("\n| ") == 2 + len(report["rows"])


def test_tasks_alternate():
    order = []
    tasks = {name: lambda name=name: order.append(name) for name in "ab"}
    times = take_turns(tasks, torch.device("cpu"), rounds=3, warmup=1)
    assert order == list("ab" * 4)
    assert [len(t) for t in times.values()] == [3, 3]


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("machine", "card", "H100", "its card is 'H100', here it is None; measure both alike"),
        ("inputs", "queries", 300, r"its inputs\.queries is 300, here it is 2; measure both alike"),
        ("inputs", "dtype", "bfloat16", r"its inputs\.dtype is 'bfloat16', here it is 'float32'"),
    ],
)
def test_runs_of_other_inputs_or_cards_are_not_compared(
    tmp_path, monkeypatch, capsys, part, key, value, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the messages are of a machine without
    file = tmp_path / "before.json"
    benchmark.main(**FOCAL, sizes="toy", out=file)
    benchmark.main(**FOCAL, sizes="toy", compare=file)
    assert capsys.readouterr().out.splitlines()[-1].split("|")[-2].strip()  # the earlier time over this one
    before = json.loads(file.read_text())
    before[part][key] = value
    file.write_text(json.dumps(before))
    with pytest.raises(SystemExit, match=message):
        benchmark.main(**FOCAL, sizes="toy", compare=file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [1], "machine": {}, "inputs": {}}'])
def test_other_files_are_not_compared(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SystemExit, match=r"--compare .*x\.json: not the JSON of this benchmark"):
        benchmark.main(**FOCAL, sizes="toy", compare=tmp_path / "x.json")


def test_a_missing_folder_is_said_before_anything_is_measured(tmp_path):
    with pytest.raises(SystemExit, match=r"--out .*: the folder .*away does not exist; make it first"):
        benchmark.main(**FOCAL, sizes="toy", out=tmp_path / "away" / "x.json")


def test_no_time_of_a_wrong_kernel_is_shown(capsys):
    case = OPERATIONS["focal_loss"](SIZES["toy"], torch.float32, torch.device("cpu"))
    wrong = replace(case, triton=lambda: 1.01 * case.torch())
    rows = benchmark.measure_case("focal_loss", wrong, ("torch", "triton"), 1, 1e-3)
    assert [row["variant"] for row in rows] == ["torch"]
    assert "focal_loss: triton differs by 1.0e-02 from torch" in capsys.readouterr().out


def test_a_machine_for_kernels_needs_no_services():
    code = """
import sys
from benchmarks import kernels
kernels.main(sizes="toy", operations=("focal_loss",), rounds=1)
print([name for name in ("ray", "deepspeed", "webdataset", "mlflow") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.stdout.splitlines()[-1] == "[]"
