"""What `qdet serve` refuses before anything starts, and its token."""

import socket
import stat

import pytest

import qdet
from qdet.__main__ import main
from qdet.allocator import ONE_KEPT_HEAP
from qdet.errors import ClusterError, ConfigError
from qdet.launching.commands.models.listening import TOKEN, choose_token, free_port, is_loopback
from qdet.launching.commands.models.serving import deploy_at_free_port, parse_replicas
from qdet.serving.settings import Limits, ServiceSettings, TokenCheck
from qdet.serving.spec import DeploymentSpec, ModelSpec
from tests.support.small_models import write_checkpoint


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Run the command on a sound model; returns the one line that it ends with."""
    write_checkpoint(tmp_path / "run", step=4)
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    monkeypatch.delenv(TOKEN, raising=False)

    def call(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main(["serve", str(tmp_path / "run"), "--port", "0", "--device", "cpu", *map(str, arguments)])
        error = capfd.readouterr().err
        assert end.value.code in (1, 2)
        assert "Traceback" not in error
        return error.strip().splitlines()[-1]

    return call


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--replicas", "x"), "--replicas x"),
        (("--replicas", "0"), "--replicas 0"),
        (("--replicas", "4:1"), "--replicas 4:1"),
        (("--host", "203.0.113.9"), "--host 203.0.113.9"),
        (("--device", "cuda:1"), "--device cuda:1"),
        (("--score", "2"), "--score"),
        (("--detections", "0"), "--detections"),
        (("--batch", "100"), "--batch"),
        (("--wait-ms", "-1"), "--wait-ms"),
        (("--max-mib", "0"), "--max-mib"),
        (("--queue", "0"), "--queue"),
        (("--tls-cert", "x.pem"), "--tls-key"),
        (("--tls-cert", "x.pem", "--tls-key", "y.pem"), "x.pem is not there"),
    ],
)
def test_settings_that_cannot_work_are_named(refused, arguments, named):
    assert named in refused(*arguments)


def test_a_missing_model_ends_before_ray_starts(refused, capfd, tmp_path):
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path / "nothing"), "--port", "0"])
    assert "is not there" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["demo", "package:demo", "runs/demo"])
def test_replicas_find_the_model_from_any_folder(name, tmp_path, monkeypatch):
    """They start in a folder of Ray's, where the name may mean another model or none."""
    write_checkpoint(tmp_path / "runs" / "demo", step=4)
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr("qdet.launching.commands.models.serving.serve_until_stopped", served.append)
    main(["serve", name, "--port", "0", "--device", "cpu"])
    wanted = qdet.load(name, device="cpu")
    monkeypatch.chdir("/")
    found = qdet.load(served[0].model.source, device="cpu")
    assert (found.description.step, found.classes) == (wanted.description.step, wanted.classes)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0


def test_a_port_taken_while_ray_starts_is_named():
    """Serve would only say that it failed to update its deployments."""
    spec = DeploymentSpec(
        model=ModelSpec(source="demo", device="cpu", precision="auto", averaged=True),
        settings=ServiceSettings(),
        port=free_port("127.0.0.1", 0),
    )
    with socket.socket() as taken:

        def deploy(_: DeploymentSpec) -> None:
            taken.bind((spec.host, spec.port))
            taken.listen()
            raise ClusterError("the service did not start: failed to update the deployments")

        with pytest.raises(ConfigError, match=f"--port {spec.port}"):
            deploy_at_free_port(spec, deploy)
        with pytest.raises(ConfigError, match=f"--port {spec.port}"):
            deploy_at_free_port(spec, lambda _: pytest.fail("deployed at a port that is taken"))


@pytest.mark.parametrize("gpus", [0.0, 0.5])
def test_replicas_on_cpus_keep_memory_for_the_next_pass(gpus):
    model = ModelSpec(source="demo", device="cpu", precision="auto", averaged=True)
    spec = DeploymentSpec(model=model, settings=ServiceSettings(), cpus=3, gpus=gpus)
    assert spec.environment()["OMP_NUM_THREADS"] == "3"
    assert (ONE_KEPT_HEAP.items() <= spec.environment().items()) == (not gpus)


def test_replicas_are_a_number_or_a_range():
    assert [parse_replicas(text) for text in ("1", "3", "1:4", "2:2")] == [(1, 1), (3, 3), (1, 4), (2, 2)]


def test_only_loopback_goes_without_a_token(tmp_path):
    for host in ("127.0.0.1", "127.8.9.1", "localhost", "::1"):
        assert is_loopback(host)
        assert choose_token(host, {}, tmp_path) == (None, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org"):
        assert not is_loopback(host)
        token, file = choose_token(host, {}, tmp_path)
        assert token is not None
        assert file == tmp_path / "serve-token"


def test_the_generated_token_is_private_and_kept(tmp_path):
    token, file = choose_token("0.0.0.0", {}, tmp_path)
    assert len(token) >= 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert choose_token("0.0.0.0", {}, tmp_path) == (token, file)


def test_a_users_own_token_is_taken_and_checked(tmp_path):
    assert choose_token("127.0.0.1", {TOKEN: "a" * 16}, tmp_path) == ("a" * 16, None)
    for bad in ("", "short", " " + "a" * 20, "ä" * 20):
        with pytest.raises(ConfigError, match=TOKEN):
            choose_token("0.0.0.0", {TOKEN: bad}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_check_recognizes_its_token_without_holding_it():
    check = TokenCheck.of("a secret of some length")
    assert check.accepts(b"a secret of some length")
    assert not check.accepts(b"a secret of some lengtH")
    assert not check.accepts(b"")
    assert "secret" not in repr(ServiceSettings(token=check)) + check.digest


def test_limits_must_allow_something():
    with pytest.raises(ConfigError, match="--max-files"):
        Limits(max_files=0)
