#!/usr/bin/env bash
# The tests on the versions that pyproject.toml admits; by hand, before its bounds change. docs/versions.md has results.
#
#   tests/matrix.sh oldest                        the oldest torch, ray, mlflow and opencv, all else resolved
#   tests/matrix.sh newest [torch==2.15.0 ...]    the newest; versions beyond a bound, to raise it, by name
#   tests/matrix.sh python 3.12 [torch==2.14.1]   another Python: quick tests, a dry run, a short training
#   tests/matrix.sh lock                          write requirements.lock with the versions that `newest` ran
#
# Environments and logs are in $MATRIX (/tmp/qdet-matrix), 5 to 8 GB each with a CUDA build of torch; the default
# tests take 12 minutes on two idle cores. PYTHON names the interpreter, UV the `uv` that `lock` needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
matrix=${MATRIX:-/tmp/qdet-matrix}
uv=${UV:-uv}
quick=(tests/data tests/data_prep tests/evaluation tests/boxes tests/layers)
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
mkdir -p "$matrix"

# requirements EXTRA oldest|newest [NAME==VERSION ...]: what to install, one a line.
requirements() {
  "$python" - "$@" <<'END'
import re, sys, tomllib

extra, age, *given = sys.argv[1:]
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]


def flatten(listed):
    for line in listed:
        inner = re.fullmatch(r"qdet\[(.*)\]", line)
        yield from (one for name in inner[1].split(",") for one in flatten(extras[name])) if inner else [line]


named = {one.partition("==")[0]: one.partition("==")[2] for one in given}
for line in flatten(project["dependencies"] + extras[extra]):
    name, brackets, bounds = re.fullmatch(r"([\w.-]+)(\[[\w,]*\])?(.*)", line).groups()
    if name in named:
        bounds = f"=={named[name]}"
    elif age == "oldest" and name in {"torch", "ray", "mlflow", "opencv-python-headless"}:
        bounds = "==" + re.search(r">=([\w.]+)", bounds)[1]
    print(name + (brackets or "") + bounds)
END
}

# install NAME AGE [NAME==VERSION ...]: an environment with qdet as it is here.
install() {
  rm -rf "${matrix:?}/$1"
  "$python" -m venv "$matrix/$1"
  requirements dev "${@:2}" >"$matrix/$1.in"
  grep '^torch[=>]' "$matrix/$1.in" | xargs -d '\n' "$matrix/$1/bin/pip" install --quiet  # alone, before others choose
  "$matrix/$1/bin/pip" install --quiet --requirement "$matrix/$1.in"
  "$matrix/$1/bin/pip" install --quiet --no-deps --editable .
  "$matrix/$1/bin/pip" freeze --exclude-editable >"$matrix/$1.txt"
  grep -E '^(torch|ray|mlflow|opencv-python-headless|deepspeed|numpy)[= ]' "$matrix/$1.txt"
}

# test_with NAME ARGUMENTS...: pytest in that environment; prints the date and pytest's end.
failed=0
test_with() {
  date --iso-8601=minutes
  PATH="$matrix/$1/bin:$PATH" nice "$matrix/$1/bin/python" -m pytest -q -p no:cacheprovider \
    --basetemp="$matrix/tmp" "${@:2}" | tee -a "$matrix/$1.log" | tail -n 25 || failed=1
}

# find_python VERSION: its interpreter, on PATH or pyenv's; nothing where there is none.
find_python() {
  if "python$1" -c "" 2>/dev/null; then
    command -v "python$1"
  else
    find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -path "*/$1.*/bin/python" 2>/dev/null | sort -V | tail -n 1
  fi
}

run_default() {
  install "$1" "$@"
  : >"$matrix/$1.log"
  test_with "$1" -m "not slow and not gpu and not serial" -n 1 --dist loadfile
  test_with "$1" -m "not slow and not gpu and serial"
}

run_python() {
  local name="python$1" bin="$matrix/python$1/bin"
  install "$name" newest "${@:2}"
  test_with "$name" "${quick[@]}"
  local folder="$matrix/$name-demo"
  rm -rf "$folder" && mkdir -p "$folder"
  "$bin/python" -m data_prep.synthetic --out "$folder/coco" --train 32 --val 8
  for split in train val; do
    "$bin/python" -m data_prep.coco_to_shards --coco "$folder/coco" --split $split --out "$folder/$split"
  done
  local flags=(--demo --data.train "$folder/train" --data.val "$folder/val" --store.path "$folder/outputs")
  "$bin/python" jobs/adamixer_swin.py "${flags[@]}" --dry-run
  "$bin/python" jobs/adamixer_swin.py "${flags[@]}" --local --train.workers 1 --train.batch-size 4 --train.steps 3
}

# Everything but torch, which comes alone: the CUDA build of PyPI with what it needs, or a CPU build.
write_locks() {
  local options=(--quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate
    --constraint "$matrix/newest.txt" --custom-compile-command "tests/matrix.sh newest && tests/matrix.sh lock")
  sed -i -E 's/^(torch==[0-9.]+)\+.*/\1/; s/^torch @ .*torch-([0-9.]+)[-+].*/torch==\1/' "$matrix/newest.txt"
  echo "torch ; python_version < '3'" >"$matrix/without-torch.txt"
  "$uv" pip compile pyproject.toml "${options[@]}" --override "$matrix/without-torch.txt" --output-file requirements.lock
  grep '^torch==' "$matrix/newest.txt" | "$uv" pip compile - "${options[@]}" --output-file requirements-cuda.lock
}

python=${PYTHON:-$(find_python 3.11 || true)}
case "${1:-}" in
  oldest | newest) run_default "$@" ;;
  python)
    python=${PYTHON:-$(find_python "$2" || true)}
    [ -n "$python" ] || { echo "no Python $2 here; name one with PYTHON=..." >&2; exit 1; }
    run_python "${@:2}"
    ;;
  lock) write_locks ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
exit "$failed"
