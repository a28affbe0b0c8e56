"""Hosts that were found wrong get no workers, and do not count where workers are counted."""

import pickle
from types import SimpleNamespace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
from ray.train import ControllerError, FailureConfig, ScalingConfig
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from qdet.config import override
from qdet.errors import ClusterError, ConfigError
from qdet.job import Job
from qdet.launching.ray_backend import train as backend
from qdet.launching.ray_backend.failures import find_cause
from qdet.launching.ray_backend.placement import bad_hosts
from qdet.launching.ray_backend.placement.bad_hosts import NODE, select_nodes
from qdet.launching.ray_backend.placement.hosts import name_host
from qdet.storage import Folder
from qdet.training.corruption import verify
from qdet.training.corruption.record import Incident, add_incident, is_bad
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import Recorder, tiny_job

only_where_nodes_are_named = pytest.mark.skipif(
    tuple(map(int, ray.__version__.split(".")[:2])) < bad_hosts.NAMES_NODES,
    reason=f"Ray {ray.__version__} does not say on which nodes it reserves room for a range of workers",
)


def node(name, host, address, *, alive=True, cpus=1.0):
    return {
        "NodeID": name,
        "NodeManagerHostname": host,
        "NodeManagerAddress": address,
        "Alive": alive,
        "Resources": {"CPU": cpus},
    }


NODES = [
    node("aa", "one", "10.0.0.1"),
    node("bb", "two", "10.0.0.2"),
    node("cc", "two", "10.0.0.2"),
    node("dd", "two", "10.0.0.9", alive=False),
    node("ee", "three", "10.0.0.3"),
    node("ff", "clone", "10.0.0.4"),
    node("gg", "clone", "10.0.0.5"),
]


def test_hosts_are_told_apart_by_their_address_where_they_share_a_name():
    names = {one["NodeID"]: name_host(one, NODES) for one in NODES if one["Alive"]}
    assert names == {
        "aa": "one",
        "bb": "two",
        "cc": "two",
        "ee": "three",
        "ff": "clone@10.0.0.4",
        "gg": "clone@10.0.0.5",
    }


def test_labels_refuse_every_living_node_of_a_host():
    assert select_nodes(NODES, {"two"}) == {NODE: "!in(bb, cc)"}
    assert select_nodes(NODES, {"one", "three"}) == {NODE: "!in(aa, ee)"}
    assert select_nodes(NODES, {"clone@10.0.0.5"}) == {NODE: "!in(gg)"}
    assert select_nodes(NODES, {"clone"}) == {NODE: "!in(ff, gg)"}  # recorded when there was one
    assert select_nodes(NODES, {"three@10.0.0.3", "three@10.0.0.8"}) == {NODE: "!in(ee)"}
    assert select_nodes(NODES, {"four"}) is None
    assert select_nodes(NODES, ()) is None
    assert is_bad("clone@10.0.0.5", {"clone"})
    assert not is_bad("clone", {"clone@10.0.0.5"})


WRONG = Incident(step=4, what="the gradient of rank 0", ranks=(0,), hosts=("two",), decided=True)


@pytest.mark.parametrize("host", [None, "two@10.0.0.2"])
def test_a_worker_on_such_a_host_ends_with_its_name(demo_shards, tmp_path, monkeypatch, host):
    monkeypatch.setattr(verify.socket, "gethostname", lambda: "two")
    add_incident(Folder.open(tmp_path / "run"), WRONG)
    excluding = {"train.verify_every": 5, "train.exclude_bad_hosts": True, "train.accelerator": "cpu"}
    job = tiny_job(demo_shards, **excluding)
    said = rf"exclude-bad-hosts: {host or 'two'} computed something wrong in this run"
    with pytest.raises(ClusterError, match=said):
        train(
            job,
            run=Run(name="run", store=str(tmp_path)),
            reporter=LocalReporter(),
            tracker=Recorder(),
            host=host,
        )


class Cluster:
    """Nodes, what Ray's own autoscaling coordinator reserves on them, and a clock."""

    def __init__(self, monkeypatch, nodes):
        self.nodes, self.now, self.requested = nodes, 0.0, []
        monkeypatch.setattr(bad_hosts, "ray", SimpleNamespace(nodes=lambda: self.nodes))
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(bad_hosts, "time", clock)

    def sleep(self, seconds):
        self.now += seconds

    def policy(self, kind, workers, folder, *, wait=60.0):
        config = ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1})
        policy = kind(config, run=Run(name="run", store=str(folder)), wait=wait)
        policy._coordinator_client = self  # the one that talks to Ray
        policy._get_reserved_resources = lambda: self.reserve(self.requested)
        return policy

    def send_resource_request(self, config, workers):
        assert config.label_selector is None or len(config.label_selector) == workers
        self.requested = [{"CPU": 1.0}] * workers

    maybe_send_resource_request = send_resource_request

    def reserve(self, bundles):
        request = coordinator.OngoingRequest(
            first_request_time=0.0,
            requested_resources=bundles,
            expiration_time=1e9,
            request_remaining=frozenset(),
            priority=0,
            reserved_resources={},
            requested_label_selectors=[{} for _ in bundles],
            strategy=coordinator.ResourceRequestStrategy.PACK,
        )
        living = {one["NodeID"]: one["Resources"] for one in self.nodes if one["Alive"]}
        return coordinator._compute_reservations(request, living)


@only_where_nodes_are_named
@given(data=st.data(), least=st.integers(1, 3), more=st.integers(1, 5))
def test_a_range_of_workers_fills_the_nodes_that_are_left(tmp_path_factory, data, least, more):
    cpus = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    bad = data.draw(st.sets(st.sampled_from(range(len(cpus)))))
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(patch, [node(f"{i}", f"h{i}", f"10.0.0.{i}", cpus=n) for i, n in enumerate(cpus)])
        policy = cluster.policy(bad_hosts._Elastic, (least, least + more), folder)
        for host in bad:
            found = Incident(step=1, what="x", ranks=(0,), hosts=(f"h{host}",), decided=True)
            add_incident(Folder.open(folder / "run"), found)
        decision = policy.make_decision_for_non_running_worker_group()
        left = sum(n for i, n in enumerate(cpus) if i not in bad)
        if left < least:
            assert isinstance(decision, NoopDecision)
            return
        assert isinstance(decision, ResizeDecision)
        assert decision.num_workers == min(left, least + more)
        chosen = policy.on_controller_start_worker_group(
            scaling_config=policy.scaling_config, num_workers=decision.num_workers
        )
        assert chosen == select_nodes(cluster.nodes, {f"h{host}" for host in bad})


@pytest.mark.parametrize(
    ("kind", "workers"),
    [(bad_hosts._Fixed, 5), pytest.param(bad_hosts._Elastic, (5, 8), marks=only_where_nodes_are_named)],
)
def test_too_few_nodes_end_the_run_after_a_while_unless_others_come(
    tmp_path, monkeypatch, capfd, kind, workers
):
    cluster = Cluster(monkeypatch, NODES)
    policy = cluster.policy(kind, workers, tmp_path, wait=10.0)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), ResizeDecision)
    add_incident(Folder.open(tmp_path / "run"), WRONG)
    for _ in range(9):
        assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    cluster.nodes = [*NODES, node("hh", "new", "10.0.0.6")]
    assert policy.make_decision_for_non_running_worker_group().num_workers == 5
    cluster.nodes = NODES
    for _ in range(10):
        assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    with pytest.raises(ControllerError) as raised:
        policy.make_decision_for_non_running_worker_group()
    error = raised.value.controller_failure
    assert isinstance(error, ClusterError)
    assert "without two the cluster has room for 4 of at least 5 workers" in str(error)
    assert f"give --train.workers {'4' if kind is bad_hosts._Fixed else '4:8'}, add nodes, or" in str(error)
    said = capfd.readouterr().out.splitlines()
    waiting = "waiting up to 10 s for nodes: without two the cluster has room for 4 of at least 5 workers"
    assert said == ["no workers on two: found wrong before", waiting, waiting]


@only_where_nodes_are_named
def test_a_host_found_wrong_between_decision_and_start_makes_ray_train_decide_again(tmp_path, monkeypatch):
    cluster = Cluster(monkeypatch, NODES)
    policy = cluster.policy(bad_hosts._Elastic, (1, 6), tmp_path)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 6
    add_incident(Folder.open(tmp_path / "run"), WRONG)
    with pytest.raises(ControllerError, match="6 workers"):
        policy.on_controller_start_worker_group(scaling_config=policy.scaling_config, num_workers=6)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 4


def test_ray_train_ends_where_too_few_are_left_and_decides_again_where_too_many_were_asked_for():
    """By Ray's own rules, also for a run that is restarted without end."""
    policy = DefaultFailurePolicy(FailureConfig(max_failures=-1))
    short = ControllerError(ClusterError("without two the cluster has room for 4"))
    assert policy.make_decision(short) is FailureDecision.RAISE
    assert str(find_cause(short)) == "without two the cluster has room for 4"
    again = ControllerError(bad_hosts.WorkerGroupStartupTimeoutError(6))
    assert policy.make_decision(again) is FailureDecision.RETRY


@pytest.mark.parametrize("version", ["2.57.0", "2.59.1"])
def test_a_range_of_workers_is_refused_where_ray_does_not_name_nodes(version):
    with pytest.raises(ConfigError, match=f"needs Ray 2.60: {version} does"):
        bad_hosts.require_named_nodes(version)
    bad_hosts.require_named_nodes("2.60.0")
    bad_hosts.require_named_nodes("3.0.0.dev0")


@pytest.mark.parametrize(
    ("workers", "kind"),
    [(3, bad_hosts._Fixed), pytest.param("2:3", bad_hosts._Elastic, marks=only_where_nodes_are_named)],
)
def test_ray_trains_controller_gets_the_policy(tmp_path, monkeypatch, workers, kind):
    monkeypatch.setattr(backend, "is_single_machine", lambda: True)
    monkeypatch.setattr(backend, "worker_environment", lambda job, gpu: {})
    monkeypatch.setattr(backend, "tracking_variables", dict)
    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", lambda self, **given: given)
    settings = {
        "train.verify_every": 5,
        "train.exclude_bad_hosts": True,
        "train.accelerator": "cpu",
        "train.batch_size": 12,
        "train.workers": workers,
    }
    job = override(Job(name="x"), settings)
    run, others = Run("run", str(tmp_path)), {"callbacks": (), "ray_callbacks": (), "output": None}
    trainer = backend._build_trainer(job, run, gpu=False, wait=7.0, **others)
    given = trainer._initialize_and_run_controller(scaling_policy=None)
    policy = pickle.loads(pickle.dumps(given["scaling_policy"]))  # as it reaches the controller
    assert type(policy) is kind
    assert (policy._run.store, policy._wait) == (str(tmp_path), 7.0)
    assert policy.scaling_config.max_workers == 3
