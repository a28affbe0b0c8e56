"""Nothing in the project can be made to run code by a file or an address that it is given."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
FOLDERS = ("qdet", "data_prep", "jobs", "benchmarks", "cluster")
CONVERTERS = ("qdet/convert/", "qdet/backbones/weights.py", "qdet/launching/commands/convert.py")
"""Where files of other projects are read: the only places that may call torch.load."""
SHELLS = {"gopen", "WebDataset", "tarfile_to_samples", "tarfile_samples", "url_opener"}
"""Functions of webdataset that run what follows `pipe:` in an address, in a shell."""
PICKLING = {
    "gather_object",
    "all_gather_object",
    "broadcast_object_list",
    "scatter_object_list",
    "send_object_list",
}
"""Functions of torch.distributed that pickle what they send, and unpickle what another rank sends."""
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}


def sources() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (REPO / folder).rglob("*.py"))


def findings(source: str, *, converter: bool = False, benchmark: bool = False) -> Iterator[str]:
    """Say what in a Python source could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"imports {a.name}" for a in node.names if a.name.split(".")[0] in UNPICKLERS)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            yield f"imports {node.module}"
        if isinstance(node, ast.Call):
            yield from _of_call(node, converter=converter, benchmark=benchmark)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("pipe:"):
            yield "opens a pipe: address"


def _of_call(call: ast.Call, *, converter: bool, benchmark: bool) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}
    if name == "torch.load":
        if not converter:
            yield "calls torch.load outside of a converter"
        if given.get("weights_only") != "True":
            yield "calls torch.load without weights_only=True"
    if given.get("shell") not in (None, "False"):
        yield "runs a shell"
    if name.rpartition(".")[2] in SHELLS and not benchmark:  # those read files that they wrote themselves
        yield f"calls {name}, which runs commands in a shell"
    if name.rpartition(".")[2] in PICKLING:
        yield f"calls {name}, which unpickles what another rank sends"
    if given.get("allow_pickle") == "True":
        yield "lets numpy unpickle"
    if name in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"):
        yield f"calls {name}"


def test_no_source_runs_what_it_reads():
    found = []
    for file in sources():
        path = file.relative_to(REPO).as_posix()
        converter = path.startswith(CONVERTERS)
        found += [
            f"{path} {what}"
            for what in findings(
                file.read_text(), converter=converter, benchmark=path.startswith("benchmarks/")
            )
        ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(line, shell=True)",
        "np.load(file, allow_pickle=True)",
        "gopen('pipe:curl -s http://x')",
        "os.system('ls')",
        "subprocess.Popen(line, shell=flag)",
        "webdataset.gopen(address)",
        "WebDataset(address, shardshuffle=False)",
        "wds.tarfile_to_samples()(source)",
        "dist.gather_object(value, found)",
        "dist.broadcast_object_list(box)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert list(findings(source, converter=True))


def test_torch_load_belongs_to_converters():
    assert list(findings("torch.load(p, weights_only=True)"))
    assert not list(findings("torch.load(p, weights_only=True)", converter=True))


def test_shell_scripts_fetch_nothing_to_run_it():
    listed = subprocess.run(
        ["git", "ls-files", "*.sh", ".ci/*"], cwd=REPO, capture_output=True, text=True, check=False
    )
    for name in listed.stdout.split():
        text = (REPO / name).read_text()
        assert "| sh" not in text, name
        assert "| bash" not in text, name
        assert "eval " not in text.replace('eval "$(', ""), name
