"""Hosts that were found wrong get no workers."""

import pytest

from qdet.errors import ClusterError
from qdet.launching.ray_backend.placement.bad_hosts import NODE, select_nodes
from qdet.storage import Folder
from qdet.training.corruption import verify
from qdet.training.corruption.record import Incident, add_incident
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import Recorder, tiny_job

NODES = [
    {"NodeID": "aa", "NodeManagerHostname": "one", "Alive": True},
    {"NodeID": "bb", "NodeManagerHostname": "two", "Alive": True},
    {"NodeID": "cc", "NodeManagerHostname": "two", "Alive": True},
    {"NodeID": "dd", "NodeManagerHostname": "two", "Alive": False},
    {"NodeID": "ee", "NodeManagerHostname": "three", "Alive": True},
]


def test_labels_refuse_every_living_node_of_a_host():
    assert select_nodes(NODES, {"two"}) == {NODE: "!in(bb, cc)"}
    assert select_nodes(NODES, {"one", "three"}) == {NODE: "!in(aa, ee)"}
    assert select_nodes(NODES, {"four"}) is None
    assert select_nodes(NODES, ()) is None


def test_a_worker_on_such_a_host_ends_with_its_name(demo_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(verify.socket, "gethostname", lambda: "two")
    wrong = Incident(step=4, what="the gradient of rank 0", ranks=(0,), hosts=("two",), decided=True)
    add_incident(Folder.open(tmp_path / "run"), wrong)
    excluding = {"train.verify_every": 5, "train.exclude_bad_hosts": True, "train.accelerator": "cpu"}
    job = tiny_job(demo_shards, **excluding)
    with pytest.raises(ClusterError, match=r"exclude-bad-hosts: two computed something wrong in this run"):
        train(
            job,
            run=Run(name="run", store=str(tmp_path)),
            reporter=LocalReporter(),
            tracker=Recorder(),
        )
