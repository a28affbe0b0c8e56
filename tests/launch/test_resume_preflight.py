"""Names and limits that no run can have, and a resumed run that is evaluated on other images."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.runs import record
from qdet.launching.runs.prepared import Prepared
from qdet.launching.runs.session import _write_record


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.max_failures", -1),
        ("train.eval_every", -1),
        ("train.max_skips", -1),
        ("eval.batch_size", 0),
        ("eval.pictures", -1),
        ("optim.weight_decay", -0.1),
        ("train.hours", -1.0),
    ],
)
def test_negative_limits_are_refused(path, value):
    with pytest.raises(ConfigError, match=rf"--{path.replace('_', '-')} .*got {value}"):
        override(Job(name="a"), {path: value})


@pytest.mark.parametrize("name", ["a" * 200, "a\tb", "a/b"])
def test_a_jobs_own_name_is_checked_where_a_run_is_named_by_it(tmp_path, name):
    with pytest.raises(ConfigError, match="a run cannot be named"):
        record.claim_name(override(Job(name=name), {"store.path": str(tmp_path)}))
    assert list(tmp_path.iterdir()) == []


def prepared(store, digest: str | None) -> Prepared:
    job = override(Job(name="a"), {"store.path": str(store), "store.run": "r", "store.resume": "auto"})
    made = Prepared(job)
    vars(made)["val"] = SimpleNamespace(digest=digest)
    return made


def test_another_validation_set_is_said_once(tmp_path, capsys):
    said = []
    for digest in ("one", "one", None, "two", "two"):
        _write_record(prepared(tmp_path, digest), None)
        said.append(capsys.readouterr().out)
    assert [bool(text) for text in said] == [False, False, False, True, False]
    assert "resuming with another validation set, --data.val " in said[3]


def test_a_run_of_an_earlier_version_gets_its_validation_set_recorded(tmp_path, capsys):
    first = record.RunRecord(name="r", mlflow_run_id=None, tracking_uri="")
    record.write(str(tmp_path), first)
    _write_record(prepared(tmp_path, "one"), None)
    assert record.read(str(tmp_path), "r") == replace(first, val_digest="one")
    assert capsys.readouterr().out == ""
