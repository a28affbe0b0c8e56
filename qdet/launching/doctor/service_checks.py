"""Checks of what machines share: the store, MLflow, copies of datasets."""

from collections.abc import Mapping

from data_prep.wording import plural
from qdet.launching.doctor.facts import Copy, Facts
from qdet.launching.doctor.findings import Finding, Verdict, group, human, most_common

SLOW_STORE = 20e6
"""Bytes per second: a checkpoint of the smallest published detector (600 MB) takes half a minute."""


def check_store(facts: Facts) -> list[Finding]:
    """The store is one and the same from every machine, and fast enough."""
    found = group("store", {name: _judge_store(facts, name) for name in facts.store_probes})
    if found or not facts.store_probes:
        return found
    said = f"{facts.store}: all see it" if len(facts.store_probes) > 1 else facts.store
    slowest = min(probe.write or 0.0 for probe in facts.store_probes.values())
    return [Finding(check="store", state="ok", found=f"{said}; {slowest / 1e6:.0f} MB/s written at least")]


def _judge_store(facts: Facts, name: str) -> Verdict | None:
    probe, store = facts.store_probes[name], facts.store
    if probe.error is not None:
        do = "see to the folder's rights, its disk and its server, or give another --store.path"
        return Verdict("wrong", f"cannot use {store}: {probe.error}", do)
    if not probe.sees:
        do = "mount the shared folder there under the same path, or give an s3:// URL as --store.path"
        return Verdict("wrong", f"does not see what the driver wrote to {store}", do)
    if not probe.seen:
        do = "mount the same shared folder on all machines, with writes that others see at once"
        return Verdict("wrong", f"writes to {store} what the driver does not see", do)
    if probe.write is not None and probe.write < SLOW_STORE:
        do = "checkpoints wait for this: look at the file server, or choose another --store.path"
        return Verdict("warning", f"writes {probe.write / 1e6:.1f} MB/s to {store}", do)
    return None


def check_mlflow(facts: Facts) -> list[Finding]:
    """MLflow takes runs, and every machine reaches it."""
    mlflow = facts.mlflow
    if mlflow is None:
        return []
    do = "start the server, or set MLFLOW_TRACKING_URI to one that every machine reaches"
    away = {
        name: Verdict("wrong", f"{mlflow.uri} does not answer: {machine.mlflow_error}", do)
        for name, machine in facts.machines.items()
        if machine.mlflow_error is not None
    }
    if away:
        return group("MLflow", away)
    if mlflow.error is not None:
        do = "see the server's log and the rights of its login; MLFLOW_TRACKING_URI names it"
        return [Finding(check="MLflow", state="wrong", found=f"{mlflow.uri}: {mlflow.error}", do=do)]
    if mlflow.local and len(facts.machines) > 1:
        said = f"{mlflow.uri} is a file, which serves one machine"
        do = "set MLFLOW_TRACKING_URI to a server: docs/clusters.md, MLflow for a team"
        return [Finding(check="MLflow", state="warning", found=said, do=do)]
    what = "is a file of this machine" if mlflow.local else "takes runs"
    return [Finding(check="MLflow", state="ok", found=f"{mlflow.uri} {what}")]


def check_data(facts: Facts) -> list[Finding]:
    """Every machine has the same copy of each dataset."""
    paths = dict.fromkeys(path for machine in facts.machines.values() for path in machine.data)
    return [finding for path in paths for finding in _check_path(facts, path)]


def _check_path(facts: Facts, path: str) -> list[Finding]:
    copies = {name: machine.data[path] for name, machine in facts.machines.items() if path in machine.data}
    whole = [copy for copy in copies.values() if copy.error is None]
    right = most_common(whole, whole[0]) if whole else None
    found = group(
        "data", {name: _judge_copy(path, copy, right, facts.data_differs) for name, copy in copies.items()}
    )
    if found or right is None:
        return found
    same = "the same everywhere" if len(copies) > 1 else "readable"
    said = f"{path}: {same}, {_describe(right)}" if right.files else f"{path} is behind a URL"
    return [Finding(check="data", state="ok", found=said)]


def _judge_copy(path: str, copy: Copy, right: Copy | None, differs: Mapping[str, str]) -> Verdict | None:
    if copy.error is not None or right is None:
        return Verdict(
            "wrong", f"{path}: {copy.error}", "copy or mount the dataset there under the same path"
        )
    if copy == right:
        return None
    said = f"{path} is another copy: {_describe(copy)}, elsewhere {_describe(right)}"
    said += f"; {differs[path]} is the first that differs" if path in differs else ""
    do = f"copy it anew; python -m data_prep.verify {path} says which copy is damaged"
    return Verdict("wrong", said, do)


def _describe(copy: Copy) -> str:
    return f"{plural(copy.files, 'file')} of {human(copy.bytes)} ({copy.digest})"
