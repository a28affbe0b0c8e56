"""What facts mean, as a table: one fact at a time is changed, and one finding names it with what to do."""

import dataclasses
import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.console import open_console
from qdet.launching.doctor import report
from qdet.launching.doctor.diagnose import diagnose
from qdet.launching.doctor.facts import (
    Clock,
    Copy,
    Facts,
    Gpus,
    Link,
    Machine,
    Mlflow,
    Software,
    Space,
    StoreProbe,
)
from qdet.launching.doctor.findings import most_common, worst

GIB = 2**30
SOFTWARE = Software(versions={"python": "3.11.2", "torch": "2.11.0", "numpy": "2.4.0"}, code="abc")
COPY = Copy(digest="d1", files=3, bytes=GIB)
MACHINE = Machine(
    host="host",
    software=SOFTWARE,
    gpus=Gpus(names=("H100", "H100"), driver="570.1", counted=2.0),
    open_files=65536,
    processes=-1,
    shared_memory=Space(path="/dev/shm", free=32 * GIB, total=64 * GIB),
    disks=(Space(path="/shared", free=500 * GIB, total=900 * GIB),),
    token=True,
    data={"/shared/coco": COPY},
)
NAMES = ("a", "b", "c")
FACTS = Facts(
    here=SOFTWARE,
    machines=dict.fromkeys(NAMES, MACHINE),
    cluster="10.0.0.1:6379",
    open=False,
    clocks={name: Clock(ahead=0.002, off=0.001) for name in NAMES},
    store="/shared/outputs",
    store_probes=dict.fromkeys(NAMES, StoreProbe(sees=True, seen=True, write=4e8, read=1e9)),
    links=tuple(Link(source=a, target=b, speed=1e9) for a, b in ("ab", "bc", "ca")),
    mlflow=Mlflow(uri="http://mlflow:5000", local=False),
    ports_asked=True,
)


def _on_b(**changes: Any) -> Callable[[], Facts]:
    """Return the facts of a cluster of which one machine is different."""
    return lambda: _replace(machines={**FACTS.machines, "b": dataclasses.replace(MACHINE, **changes)})


def _replace(**changes: Any) -> Facts:
    return dataclasses.replace(FACTS, **changes)


def _software(**versions: str) -> Software:
    return dataclasses.replace(SOFTWARE, versions={**SOFTWARE.versions, **versions})


def _probes(**changes: Any) -> dict[str, StoreProbe]:
    return {**FACTS.store_probes, "b": dataclasses.replace(FACTS.store_probes["b"], **changes)}


def test_a_healthy_cluster_is_well_by_every_check():
    found = diagnose(FACTS)
    assert {finding.state for finding in found} == {"ok"}
    checks = [finding.check for finding in found]
    assert len(checks) == len(set(checks)) == 13


PLANTED = [
    (_on_b(software=_software(torch="2.10.0")), "versions", "wrong", "torch 2.10.0, elsewhere torch 2.11.0"),
    (_on_b(software=_software(numpy="2.1.0")), "versions", "warning", "numpy 2.1.0, elsewhere numpy 2.4.0"),
    (
        _on_b(software=dataclasses.replace(SOFTWARE, code="x")),
        "versions",
        "wrong",
        "the files of qdet x, elsewhere",
    ),
    (_on_b(gpus=Gpus(counted=2.0)), "GPUs", "wrong", "Ray hands out 2, and none can be seen"),
    (_on_b(gpus=Gpus(counted=0.0, error="Driver Not Loaded")), "GPUs", "wrong", "Driver Not Loaded"),
    (
        _on_b(gpus=dataclasses.replace(MACHINE.gpus, counted=1.0)),
        "GPUs",
        "warning",
        "Ray hands out 1 of 2 GPUs",
    ),
    (_on_b(open_files=900), "limits", "wrong", "at most 900 open files"),
    (_on_b(open_files=1024), "limits", "warning", "at most 1024 open files"),
    (_on_b(processes=500), "limits", "wrong", "at most 500 processes"),
    (
        _on_b(shared_memory=Space(path="/dev/shm", free=60 * 2**20, total=64 * 2**20)),
        "shared memory",
        "wrong",
        "60.0 MiB of 64.0 MiB free",
    ),
    (
        _on_b(disks=(Space(path="/shared", free=GIB, total=900 * GIB),)),
        "disk",
        "wrong",
        "1.0 GiB of 900.0 GiB free on the disk of /shared",
    ),
    (
        _on_b(disks=(*MACHINE.disks, Space(path="/tmp", free=40 * GIB, total=900 * GIB))),
        "disk",
        "warning",
        "/tmp",
    ),
    (_on_b(token=False), "token", "wrong", "is off in its processes"),
    (_on_b(taken_ports=(5000, 5001)), "ports", "wrong", "at port 5000, 5001"),
    (_on_b(mlflow_error="timed out"), "MLflow", "wrong", "http://mlflow:5000 does not answer: timed out"),
    (
        _on_b(data={"/shared/coco": Copy(digest="d2", files=2, bytes=GIB)}),
        "data",
        "wrong",
        "2 files of 1.0 GiB (d2), elsewhere 3 files",
    ),
    (
        _on_b(data={"/shared/coco": Copy(digest="", files=0, bytes=0, error="No such file")}),
        "data",
        "wrong",
        "/shared/coco: No such file",
    ),
    (lambda: _replace(silent={"b": "no answer"}), "nodes", "wrong", "does not answer: no answer"),
    (
        lambda: _replace(clocks={**FACTS.clocks, "b": Clock(ahead=-90.0, off=0.1)}),
        "clocks",
        "wrong",
        "90.0 s behind",
    ),
    (
        lambda: _replace(clocks={**FACTS.clocks, "b": Clock(ahead=1.0, off=0.1)}),
        "clocks",
        "warning",
        "1.0 s ahead",
    ),
    (lambda: _replace(store_probes=_probes(sees=False)), "store", "wrong", "does not see what the driver"),
    (lambda: _replace(store_probes=_probes(seen=False)), "store", "wrong", "what the driver does not see"),
    (
        lambda: _replace(store_probes=_probes(error="OSError: Read-only file system")),
        "store",
        "wrong",
        "Read-only",
    ),
    (lambda: _replace(store_probes=_probes(write=3e6)), "store", "warning", "writes 3.0 MB/s"),
    (
        lambda: _replace(links=(*FACTS.links, Link(source="b", target="c", error="timed out"))),
        "network",
        "wrong",
        "cannot connect to c: timed out",
    ),
    (
        lambda: _replace(links=(*FACTS.links, Link(source="b", target="a", speed=1e8))),
        "network",
        "warning",
        "100 MB/s to a, the middle of all links is 1000",
    ),
]


@pytest.mark.parametrize(("facts", "check", "state", "said"), PLANTED, ids=[one[3][:24] for one in PLANTED])
def test_one_fault_is_one_finding_that_says_where_and_what_to_do(facts, check, state, said):
    (finding,) = [finding for finding in diagnose(facts()) if finding.state != "ok"]
    assert (finding.check, finding.state, finding.where) == (check, state, ("b",))
    assert said in finding.found
    assert finding.do


@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"open": True}, "token", "Ray answers without a token"),
        (
            {"group_error": "a: connection closed", "links": ()},
            "network",
            "make no gloo group: a: connection",
        ),
        ({"mlflow": Mlflow(uri="http://m", local=False, error="403")}, "MLflow", "http://m: 403"),
        (
            {"here": _software(torch="2.9.0")},
            "versions",
            "this process has torch 2.9.0, the machines torch 2.11",
        ),
    ],
)
def test_a_fault_of_the_whole_cluster_names_no_machine(changes, check, said):
    (finding,) = [finding for finding in diagnose(_replace(**changes)) if finding.state != "ok"]
    assert (finding.check, finding.where, finding.state) == (check, (), "wrong")
    assert said in finding.found
    assert finding.do


def test_a_torch_without_cuda_beside_gpus_is_wrong_on_all():
    without = _software(torch="2.11.0+cpu")
    machines = dict.fromkeys(NAMES, dataclasses.replace(MACHINE, software=without))
    (finding,) = [one for one in diagnose(_replace(machines=machines, here=without)) if one.state != "ok"]
    assert (finding.check, finding.where) == ("GPUs", NAMES)
    assert finding.found == "2 GPUs, and a torch that computes on CPUs only"


def test_a_clock_that_was_measured_badly_is_not_blamed():
    facts = _replace(clocks={**FACTS.clocks, "b": Clock(ahead=2.0, off=1.9)})
    assert worst(diagnose(facts)) == "ok"


def test_a_machine_alone_is_not_asked_for_what_only_a_cluster_has():
    facts = Facts(
        here=SOFTWARE,
        machines={"a": dataclasses.replace(MACHINE, token=False, gpus=Gpus(), taken_ports=(6379,))},
        mlflow=Mlflow(uri="sqlite:////x/mlflow.db", local=True),
    )
    found = {finding.check: finding.state for finding in diagnose(facts)}
    assert "token" not in found
    assert "network" not in found
    assert {check for check, state in found.items() if state != "ok"} == {"ports"}
    assert worst(diagnose(facts)) == "warning"


def test_a_file_of_runs_serves_one_machine_only():
    facts = _replace(mlflow=Mlflow(uri="sqlite:////x/mlflow.db", local=True))
    (finding,) = [finding for finding in diagnose(facts) if finding.state != "ok"]
    assert (finding.state, "serves one machine" in finding.found) == ("warning", True)


def test_facts_are_json_and_come_back_from_it():
    content = json.loads(report.as_json(diagnose(FACTS), FACTS))
    assert content["state"] == "ok"
    assert msgspec.convert(content["facts"], Facts) == FACTS


@given(st.lists(st.sampled_from("abc"), min_size=1), st.sampled_from("abcd"))
def test_what_most_have_is_right_and_a_tie_is_the_askers(values: list[str], first: str):
    right = most_common(values, first)
    counts = {value: values.count(value) for value in values}
    assert counts[right] == max(counts.values())
    if counts.get(first) == counts[right]:
        assert right == first


@pytest.mark.parametrize("width", [30, 60, 200])
def test_nothing_is_cut_off_in_a_narrow_terminal(width: int):
    facts = PLANTED[0][0]()
    out = StringIO()
    report.show(diagnose(facts), open_console(width=width, file=out))
    lines = out.getvalue().splitlines()
    assert lines[-1].strip() == "1 wrong"
    assert all(len(line.rstrip()) <= width for line in lines)
    text = "".join("".join(line.split()) for line in lines)
    wanted = "b: torch 2.10.0, elsewhere torch 2.11.0 -> install torch 2.11.0 there"
    assert "".join(wanted.split()) in text
