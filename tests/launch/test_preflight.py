"""Before the first worker starts: paths, the store, capacity of the cluster, checks, tokens."""

import dataclasses
import os
import re
import socket
from pathlib import Path

import pytest

from qdet.config import override
from qdet.data.shards.categories import Categories
from qdet.detectors import DETRConfig
from qdet.errors import ClusterError, ConfigError
from qdet.job import Job, TrainConfig
from qdet.launching import paths
from qdet.launching.preflight.check import check
from qdet.launching.preflight.start import check_start
from qdet.launching.ray_backend import auth, connect, head
from qdet.launching.ray_backend.capacity import Node, choose_gpu, count_workers_that_fit
from qdet.launching.ray_backend.submit import submit
from qdet.launching.ray_backend.sweeping.search import count_steps, require_evaluation
from qdet.launching.runs import record
from qdet.launching.runs.prepared import prepare
from qdet.losses import DETR_LOSS
from qdet.storage.sockets import choose_ports
from qdet.training.engine.stage import memory_per_rank
from tests.support import small_models
from tests.support.ranks import tiny_job


@pytest.fixture(autouse=True)
def _in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Use an empty project folder, and an environment without cluster, token or server."""
    for name in (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "MLFLOW_TRACKING_URI",
        auth.MODE,
        auth.TOKEN,
        auth.TOKEN_PATH,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(paths.ROOT, str(tmp_path))


class TestPaths:
    def test_relative_paths_start_at_the_root(self, tmp_path: Path):
        job = override(Job(name="a"), {"store.init_from": "outputs/a/step_000001"})
        resolved = paths.resolve(job)
        assert resolved.data.train == str(tmp_path / "data/coco/train2017")
        assert resolved.store.path == str(tmp_path / "outputs")
        assert resolved.store.init_from == str(tmp_path / "outputs/a/step_000001")

    def test_urls_and_absolute_paths_stay(self):
        job = override(Job(name="a"), {"store.path": "s3://bucket/runs", "data.val": "/data/val"})
        resolved = paths.resolve(job)
        assert (resolved.store.path, resolved.data.val) == ("s3://bucket/runs", "/data/val")

    def test_weights_are_made_absolute_where_they_are_a_file(self, tmp_path: Path):
        (tmp_path / "mine.safetensors").touch()
        assert paths.resolve(Job(name="a")).detector.backbone.weights == "imagenet"
        job = override(Job(name="a"), {"detector.backbone.weights": "mine.safetensors"})
        assert paths.resolve(job).detector.backbone.weights == str(tmp_path / "mine.safetensors")

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            (None, "sqlite:///{root}/mlflow.db"),
            ("sqlite:///runs/m.db", "sqlite:///{root}/runs/m.db"),
            ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5000"),
        ],
    )
    def test_tracking_uri_means_one_place_everywhere(
        self, given: str | None, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        if given:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert paths.tracking_uri() == meant.format(root=tmp_path)


class TestRuns:
    def test_a_run_record_round_trips(self, tmp_path: Path):
        written = record.RunRecord(name="a-1", mlflow_run_id="f00", tracking_uri="sqlite:///x")
        record.write(str(tmp_path / "store"), written)
        assert record.read(str(tmp_path / "store"), "a-1") == written

    def test_an_unknown_run_is_answered_with_the_existing_ones(self, tmp_path: Path):
        for name in ("swin-20260101-000000-aaaa", "r50-20260101-000000-bbbb"):
            record.write(str(tmp_path), record.RunRecord(name=name, mlflow_run_id=None, tracking_uri=""))
        with pytest.raises(
            ConfigError, match=r"--store.resume swin-20260101-000000-aaab: no such run"
        ) as error:
            record.read(str(tmp_path), "swin-20260101-000000-aaab")
        assert "Did you mean swin-20260101-000000-aaaa?" in str(error.value)
        assert "r50-20260101-000000-bbbb" in str(error.value)

    def test_store_that_cannot_be_written_names_the_flag(self, tmp_path: Path):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"--store\.path"):
            record.write(
                str(tmp_path / "file"), record.RunRecord(name="a", mlflow_run_id=None, tracking_uri="")
            )

    def test_a_new_run_under_a_used_name_is_refused(self, tmp_path: Path):
        written = record.RunRecord(name="night", mlflow_run_id=None, tracking_uri="")
        job = override(Job(name="a"), {"store.path": str(tmp_path), "store.run": "night"})
        assert record.choose(job)[:2] == ("night", None)
        record.write(str(tmp_path), written)
        with pytest.raises(ConfigError, match=r"--store\.run night: .*with --store\.resume night"):
            record.choose(job)
        assert record.choose(override(job, {"store.resume": "night"}))[:2] == ("night", written)

    def test_one_command_starts_a_run_and_later_resumes_it(self, tmp_path: Path):
        job = override(
            Job(name="a"), {"store.path": str(tmp_path), "store.run": "job-7", "store.resume": "auto"}
        )
        assert record.choose(job)[:2] == ("job-7", None)
        written = record.RunRecord(name="job-7", mlflow_run_id="f00", tracking_uri="")
        record.write(str(tmp_path), written)
        assert record.choose(job)[:2] == ("job-7", written)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"store.run": "a/b"}, "not a valid folder name"),
            ({"store.run": ".."}, "not a valid folder name"),
            ({"store.run": "a\nb"}, "cannot be printed"),
            ({"store.run": "a\x1b[31mb"}, "cannot be printed"),
            ({"store.run": "a\u202eb"}, "cannot be printed"),
            ({"store.run": "a" * 201}, "has 201 bytes, more than 200"),
            ({"store.run": "ü" * 101}, "has 202 bytes"),
            ({"store.resume": "auto"}, "--store.run NAME"),
            ({"store.run": "a", "store.resume": "b"}, "name two runs"),
        ],
    )
    def test_invalid_run_names_are_refused(self, changes: dict[str, str], said: str):
        with pytest.raises(ConfigError, match=said):
            override(Job(name="a"), changes)


class TestCapacity:
    @pytest.mark.parametrize(
        ("nodes", "cpus", "gpu", "fit"),
        [
            ([Node(2.0, 0.0)], 1, False, 2),
            ([Node(3.0, 0.0), Node(3.0, 0.0)], 2, False, 2),  # 6 CPUs, but a worker lives on one node
            ([Node(16.0, 8.0)], 4, True, 4),
            ([Node(64.0, 8.0), Node(64.0, 2.0)], 4, True, 10),
            ([], 1, False, 0),
        ],
    )
    def test_workers_that_fit_are_counted_per_node(self, nodes: list[Node], cpus: int, gpu: bool, fit: int):
        assert count_workers_that_fit(nodes, cpus=cpus, gpu=gpu) == fit

    @pytest.mark.parametrize(
        ("accelerator", "nodes", "chosen"),
        [
            ("auto", [Node(8.0, 8.0)], True),
            ("auto", [Node(8.0, 4.0)], False),
            ("auto", [Node(4.0, 0.0)], None),
            ("gpu", [Node(8.0, 4.0)], None),
            ("cpu", [Node(8.0, 8.0)], False),
        ],
    )
    def test_choice_of_accelerator_for_eight_workers(
        self, accelerator, nodes: list[Node], chosen: bool | None
    ):
        assert choose_gpu(nodes, TrainConfig(workers=8, accelerator=accelerator)) is chosen


class TestPreflight:
    def test_a_valid_job_passes(self, demo_shards: Path):
        check(prepare(_job(demo_shards)))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"data.train": "/nowhere"}, "--data.train: /nowhere holds no shards"),
            ({"data.val": "/nowhere"}, "--data.val: /nowhere holds no shards"),
            ({"data.train": "{shards}"}, "{shards} holds the shards of train and val: give {shards}/train"),
            ({"store.init_from": "/nowhere"}, "--store.init-from /nowhere: /nowhere is not there"),
            ({"train.batch_size": 64}, "--train.batch-size 64 is more than the 48 images"),
        ],
    )
    def test_missing_paths_are_named_by_their_flag(self, changes: dict, said: str, demo_shards: Path):
        changes = {
            path: value.format(shards=demo_shards) if isinstance(value, str) else value
            for path, value in changes.items()
        }
        with pytest.raises(ConfigError, match=re.escape(said.format(shards=demo_shards))):
            check(prepare(override(_job(demo_shards), changes)))

    def test_weights_that_nothing_vouches_for_are_refused_before_workers_start(
        self, demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("QDET_CACHE", str(tmp_path / "cache"))
        url = "http://127.0.0.1:9/w.pth"  # nobody listens there
        job = override(_job(demo_shards), {"detector.backbone.weights": url})
        with pytest.raises(ConfigError, match=rf"{url} cannot be verified.*--store\.allow-unverified"):
            check(prepare(job))
        for known in ({"store.allow_unverified": True}, {"detector.backbone.weights_sha256": "0" * 64}):
            check(prepare(override(job, known)))

    def test_a_run_to_start_from_may_have_other_classes(self, demo_shards: Path, tmp_path: Path):
        job = override(tiny_job(demo_shards), {"store.path": "outputs"})
        small_models.write_checkpoint(tmp_path / "outputs/mine", step=2, job=job, metrics={"val/AP": 0.4})
        small_models.write_checkpoint(tmp_path / "outputs/mine", step=10, job=job, metrics={"val/AP": 0.3})
        for source in ("mine", "outputs/mine", str(tmp_path / "outputs/mine")):
            prepared = prepare(override(job, {"store.init_from": source}))
            check(prepared)
            taken, classes = check_start(prepared.job, prepared.train.categories)
            assert taken == f"starts from {tmp_path}/outputs/mine/step_000002"
            assert classes.startswith("class head: kept")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"detector.stages": 3}, r"of other sizes: --detector.stages is 3, there \d"),
            ({"detector": DETRConfig().demo(), "loss": DETR_LOSS}, "model of AdaMixer, the job trains DETR"),
            ({"store.init_from": "mime"}, "Did you mean mine"),
            ({"store.init_from": "model.pth"}, "convert an authors' checkpoint first"),
            ({"store.init_from": "model.onnx"}, "cannot be trained"),
        ],
    )
    def test_a_model_that_does_not_fit_is_refused(
        self, changes: dict, said: str, demo_shards: Path, tmp_path: Path
    ):
        job = override(tiny_job(demo_shards), {"store.path": "outputs"})
        small_models.write_checkpoint(tmp_path / "outputs/mine", step=2, job=job)
        with pytest.raises(ConfigError, match=f"--store.init-from .*{said}"):
            check(prepare(override(job, {"store.init_from": "mine"} | changes)))

    def test_datasets_of_different_classes_are_listed(self, demo_shards: Path):
        prepared = prepare(tiny_job(demo_shards))
        (first, *names), ids = prepared.val.categories.names, prepared.val.categories.ids
        for other, said in (
            (Categories((first, "hexagon", *names[1:]), ids), "only --data.val has hexagon"),
            (Categories((first, *names), tuple(i + 1 for i in ids)), "not their ids"),
        ):
            vars(prepared)["val"] = dataclasses.replace(prepared.val, categories=other)
            with pytest.raises(ConfigError, match=rf"do not have the same categories: .*{said}"):
                check(prepared)


class TestConnect:
    def test_address_where_nothing_answers_is_refused_quickly(self):
        with pytest.raises(ClusterError, match=r"--ray-address 127.0.0.1:9: nothing answers"):
            connect.connect("127.0.0.1:9")

    @pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
    def test_addresses_for_other_purposes_are_explained(self, address: str):
        with pytest.raises(ConfigError, match="qdet submit"):
            connect.connect(address)

    def test_a_malformed_address_is_refused(self):
        with pytest.raises(ConfigError, match="expected host:port"):
            connect.connect("head")


class TestSubmit:
    @pytest.mark.parametrize("where", ["environment", "command"])
    def test_a_secret_that_ray_would_write_down_is_refused(self, where: str, tmp_path: Path, monkeypatch):
        (tmp_path / "job.py").touch()
        monkeypatch.chdir(tmp_path)
        uri = "http://me:hidden-word@tracking:5000"
        if where == "environment":
            monkeypatch.setenv(paths.TRACKING, uri)
        flags = ["--data.train", uri] if where == "command" else []
        with pytest.raises(ConfigError, match=r"holds a secret, .*me:\*\*\*@tracking") as refused:
            submit("job.py", flags, address="http://127.0.0.1:9")
        assert "hidden-word" not in str(refused.value)


class TestAuth:
    def test_token_of_our_own_is_made_once_and_private(self, tmp_path: Path):
        environment: dict[str, str] = {}
        variables = auth.require_token(environment)
        file = tmp_path / ".qdet" / "ray-token"
        assert variables == {auth.MODE: "token", auth.TOKEN_PATH: str(file)} == environment
        assert file.stat().st_mode & 0o777 == 0o600
        token = file.read_text()
        assert len(token) >= 32
        auth.require_token({})
        assert file.read_text() == token

    def test_token_of_the_user_is_used(self, tmp_path: Path):
        theirs = tmp_path / "home" / ".ray" / "auth_token"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("mine")
        theirs.chmod(0o644)  # as Ray leaves it
        assert auth.require_token({})[auth.TOKEN_PATH] == str(theirs)
        assert theirs.stat().st_mode & 0o777 == 0o600
        assert theirs.read_text() == "mine"

    def test_settings_of_the_user_stay(self):
        assert auth.require_token({auth.TOKEN: "t"}) == {auth.MODE: "token"}
        assert auth.require_token({auth.MODE: "disabled"}) == {auth.MODE: "disabled"}


class TestHead:
    def test_port_that_is_asked_for_and_taken_is_named_with_its_flag(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            with pytest.raises(ClusterError, match=f"--dashboard-port {port}"):
                head.up(ports={"dashboard-port": port})

    def test_a_taken_default_port_is_replaced(self, capsys: pytest.CaptureFixture):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            chosen = choose_ports({}, {"dashboard-port": port})["dashboard-port"]
        assert port < chosen < port + 50
        assert f"--dashboard-port {chosen}" in capsys.readouterr().out

    def test_no_head_runs_in_a_fresh_project(self):
        assert head.running() is None
        assert head.down() is False

    def test_the_record_of_a_dead_or_other_process_is_no_head(self, tmp_path: Path):
        record = '{"pid": %d, "born": 1.0, "address": "", "dashboard": "", "agent": "", "environment": {}}'
        paths.state_folder().joinpath("head.json").write_text(record % os.getpid())
        assert head.running() is None  # our own process, but with another start time

    def test_jobs_inherit_root_database_and_python(self, tmp_path: Path):
        import sys

        environment = head._job_environment(
            {"PATH": "/bin", "RAY_ADDRESS": "other:6379"}, "http://127.0.0.1:8266"
        )
        assert environment["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:8266"
        assert environment[paths.ROOT] == str(tmp_path)
        assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
        assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
        assert "RAY_ADDRESS" not in environment


@pytest.mark.parametrize(
    ("changes", "every", "steps"),
    [
        ({"train.steps": 12, "train.eval_every": 0}, 1, 12),  # 48 images make 6 batches of 8
        ({"train.steps": 13, "train.eval_every": 1}, 1, 13),
        ({"train.epochs": 12, "train.eval_every": 3}, 3, 72),
    ],
)
def test_trials_report_after_every_evaluation(changes: dict, every: int, steps: int, demo_shards: Path):
    prepared = prepare(require_evaluation(override(_job(demo_shards), {"train.batch_size": 8} | changes)))
    assert prepared.job.train.eval_every == every
    assert count_steps(prepared, prepared.job) == (6, steps)
    twice = override(prepared.job, {"train.batch_size": 16})
    assert count_steps(prepared, twice)[0] == 3


def test_memory_per_rank_equals_a_count_by_hand():
    """100 parameters, 80 of them trained, on 4 ranks: as DeepSpeed holds them, all in fp32."""
    by_stage = [memory_per_rank(100, 80, zero=zero, ranks=4, average=True) for zero in (0, 1, 2, 3)]
    assert [m.weights for m in by_stage] == [400, 400, 400, 100]
    assert [m.gradients for m in by_stage] == [320, 80, 80, 80]
    assert [m.optimizer for m in by_stage] == [640, 240, 240, 240]
    assert [m.average for m in by_stage] == [320, 320, 320, 80]
    assert by_stage[3].total == 500
    twice = [memory_per_rank(100, 80, zero=z, ranks=4, average=True, passes=2) for z in (0, 1, 2, 3)]
    assert [m.gradients for m in twice] == [320, 320, 80, 80]


def _job(shards: Path) -> Job:
    return override(
        Job(name="a"),
        {"data.train": str(shards / "train"), "data.val": str(shards / "val"), "train.workers": 2},
    )
