"""Every program compiles for a GPU, which needs none: the interpreter takes more than the compiler does."""

import os
import subprocess
import sys

import pytest

from qdet.kernels.choice import has_triton

CODE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qdet.kernels.programs import (
    adaptive_mixing, assignment, deformable_attention, focal_loss, overlap_bias, sampling_3d
)

def compile(program, constants, wide):
    kinds = {name: wide.get(name, "i32") for name in program.arg_names}
    source = ASTSource(program, kinds | dict.fromkeys(constants, "constexpr"), constants)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    shared = binary.metadata.shared
    print(program.__module__.rpartition(".")[2], program.__name__, len(binary.asm["cubin"]), shared)

NARROW = ("tokens", "value", "out", "grad", "logits", "d_logits")
WIDE = ("points", "table", "weights", "unit", "d_points", "d_weights", "sums")

for kind in ("*bf16", "*fp32"):
    data = dict.fromkeys(NARROW, kind) | dict.fromkeys(WIDE, "*fp32")
    blocks = {"POINTS": 4, "CHANNELS": 16, "LEVELS": 2}
    own = {"GROUPS": 2, "TAU": 2.0}, {"HEADS": 2, "QUERIES": 4}
    for program, more in zip((sampling_3d, deformable_attention), own, strict=True):
        compile(program.forward, blocks | more, data)
        for fixed in (False, True):
            sums = {"sums": "*i64" if fixed else "*fp32"}
            compile(program.backward, blocks | more | {"FIXED": fixed}, data | sums)
    mixing = dict.fromkeys(("sampled", "weights", "out", "grad", "d_sampled", "d_weights"), kind)
    blocks = {"POINTS": 16, "CHANNELS": 16, "POINTS_OUT": 16, "EPS": 1e-5, "INTERPRETED": False}
    for program in (adaptive_mixing.forward, adaptive_mixing.backward):
        compile(program, blocks, mixing)
    for gamma in (0.0, 2.0):
        blocks = {"ROWS": 4, "CLASSES": 128, "ALPHA": 0.25, "GAMMA": gamma}
        focal = data | {"targets": "*u8", "out": "*fp32", "grad": "*fp32"}
        for program in (focal_loss.forward, focal_loss.backward):
            compile(program, blocks, focal)
    blocks = {"HEADS": 8, "ROWS": 16, "COLUMNS": 64}
    bias = data | dict.fromkeys(("boxes", "scale", "parts"), "*fp32")
    compile(overlap_bias.forward, blocks | {"INTERPRETED": False}, bias)
    compile(overlap_bias.backward, blocks, bias)
results = {"out_queries": "*i64", "out_objects": "*i64", "broken": "*i32", "images": "*i32"}
for block in (32, 512, 2048):
    compile(assignment.assign, {"BLOCK": block}, {"cost": "*fp32"} | results)
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_triton(), reason="Triton is not installed (it is for Linux)")
def test_every_program_compiles_for_a_gpu(tmp_path):
    program = tmp_path / "compile_all.py"
    program.write_text(CODE)
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert not done.returncode, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 2 * (3 + 3 + 2 + 4 + 2) + 3
    assert all(int(shared) <= 48 * 1024 for *_, shared in lines)
