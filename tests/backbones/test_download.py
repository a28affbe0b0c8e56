"""Published weights over HTTP: downloaded once, and only where a digest vouches for them."""

import functools
import hashlib
import http.server
import itertools
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig, load_pretrained
from qdet.backbones.download import Source, cached_path, download
from qdet.backbones.weights import check_verifiable, find_weights
from qdet.errors import CheckpointError, ConfigError

SMALL = ResNetConfig(depth=14, width=16, weights=None)
ALLOW = r"--store\.allow-unverified"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A folder, the address of a web server of it, and the paths it was asked for."""
    folder, asked = tmp_path_factory.mktemp("served"), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    serve = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(server, tmp_path, monkeypatch):
    """The server, asked for nothing yet, and an empty cache."""
    server[2].clear()
    monkeypatch.setenv("QDET_CACHE", str(tmp_path / "cache"))
    return server


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "weights"


def serve_backbone(folder) -> tuple[dict[str, torch.Tensor], str]:
    """Serve random weights of SMALL as w.pth; return them with their digest."""
    state = {name: torch.randn_like(t) for name, t in SMALL.build().state_dict().items()}
    torch.save(state, folder / "w.pth")
    return state, digest((folder / "w.pth").read_bytes())


def test_what_nothing_vouches_for_is_refused_before_the_server_is_asked(served, cache):
    folder, address, asked = served
    serve_backbone(folder)
    config = replace(SMALL, weights=f"{address}/w.pth")
    with pytest.raises(ConfigError, match=rf"cannot be verified.*{ALLOW}"):
        load_pretrained(SMALL.build(), config)
    with pytest.raises(ConfigError, match=ALLOW):
        check_verifiable(config, allow_unverified=False)
    assert not asked
    assert not list(cache.glob("*.pth"))


def test_the_flagships_weights_need_no_flag(cache):
    """Their authors publish no digest: the first download is kept."""
    swin = SwinConfig(size="s")
    assert swin.imagenet is not None
    assert swin.imagenet.sha256 is None
    check_verifiable(swin, allow_unverified=False)


def test_a_file_of_ours_without_a_digest_is_kept_once_and_compared_then(served, cache):
    folder, address, _ = served
    serve_backbone(folder)
    source = Source(f"{address}/w.pth", ours=True)
    path = download(source)
    path.unlink()
    (folder / "w.pth").write_bytes(b"another file")
    with pytest.raises(CheckpointError, match="its first download had"):
        download(source)


def test_a_first_download_that_is_allowed_prints_and_keeps_its_digest(served, cache, capsys):
    folder, address, asked = served
    state, sha256 = serve_backbone(folder)
    config = replace(SMALL, weights=f"{address}/w.pth")
    for allow in (True, False):  # once it is kept, the flag is no longer needed
        module = SMALL.build()
        check_verifiable(config, allow_unverified=allow)
        load_pretrained(module, config, allow_unverified=allow)
        assert all(torch.equal(t, state[name]) for name, t in module.state_dict().items())
    assert len(asked) == 1
    assert capsys.readouterr().err.count(f"--detector.backbone.weights-sha256 {sha256}") == 1
    (keeper,) = cache.glob("*.sha256")
    subprocess.run(["sha256sum", "--check", "--status", keeper.name], cwd=cache, check=True)


@pytest.mark.parametrize("digits", [None, 8, 63], ids=["no digest", "first digits", "all but one"])
def test_a_later_download_must_be_the_first_one_again(served, digits):
    folder, address, _ = served
    (folder / "w.pth").write_bytes(b"first")
    known = digits and digest(b"first")[:digits]
    source = Source(f"{address}/w.pth", known)
    path = download(source, allow_unverified=True)
    path.unlink()
    assert download(source).read_bytes() == b"first"
    path.unlink()
    (folder / "w.pth").write_bytes(b"second")
    with pytest.raises(CheckpointError, match=digest(b"second")) as told:
        download(replace(source, sha256=None), allow_unverified=True)
    assert digest(b"first") in str(told.value)
    assert f"{path.name}.sha256" in str(told.value)
    assert not path.exists()


def test_the_first_digits_do_not_replace_what_was_kept(served):
    """Eight digits can be forged in minutes; the digest of the first download cannot."""
    folder, address, _ = served
    (folder / "w.pth").write_bytes(b"first")
    path = download(Source(f"{address}/w.pth", digest(b"first")[:8]))
    (folder / "w.pth").write_bytes(b"forged")
    path.unlink()
    with pytest.raises(CheckpointError, match="its first download had"):
        download(Source(f"{address}/w.pth", digest(b"forged")[:8]))


def test_a_whole_digest_outweighs_what_was_kept(served):
    folder, address, _ = served
    url = f"{address}/w.pth"
    (folder / "w.pth").write_bytes(b"first")
    path = download(Source(url), allow_unverified=True)
    path.unlink()
    (folder / "w.pth").write_bytes(b"second")
    assert download(Source(url, digest(b"second"))).read_bytes() == b"second"
    assert download(Source(url)).read_bytes() == b"second"
    with pytest.raises(CheckpointError, match="expected"):
        download(Source(url, digest(b"first")))


def test_a_cached_file_that_changed_is_refused(served):
    folder, address, _ = served
    (folder / "w.pth").write_bytes(b"first")
    path = download(Source(f"{address}/w.pth"), allow_unverified=True)
    path.write_bytes(b"firsT")
    with pytest.raises(CheckpointError, match=r"its first download had .* damaged"):
        download(Source(f"{address}/w.pth"), allow_unverified=True)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"0" * 63, b"A" * 64 + b"  w.pth\n"])
def test_a_damaged_keeper_is_named(served, content):
    url = f"{served[1]}/w.pth"
    keeper = cached_path(url).with_name(cached_path(url).name + ".sha256")
    keeper.parent.mkdir(parents=True)
    keeper.write_bytes(content)
    with pytest.raises(CheckpointError, match=keeper.name):
        download(Source(url))


def test_a_download_that_is_not_what_was_pinned_leaves_nothing(served, cache):
    folder, address, _ = served
    serve_backbone(folder)
    config = replace(SMALL, weights=f"{address}/w.pth", weights_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="expected 0000"):
        load_pretrained(SMALL.build(), config)
    assert not [p for p in cache.iterdir() if p.suffix != ".lock"]


def test_concurrent_requests_share_one_download(served):
    folder, address, asked = served
    _, sha256 = serve_backbone(folder)
    config = replace(SMALL, weights=f"{address}/w.pth", weights_sha256=sha256)
    with ThreadPoolExecutor(4) as workers:
        paths = list(workers.map(find_weights, [config] * 4))
    assert len(set(paths)) == len(asked) == 1


def test_a_failed_download_names_its_url_and_the_alternative(served, cache):
    for url in (f"{served[1]}/gone.pth", "http://127.0.0.1:9/w.pth"):
        with pytest.raises(CheckpointError) as told:
            load_pretrained(SMALL.build(), replace(SMALL, weights=url), allow_unverified=True)
        for part in (url, "--detector.backbone.weights PATH", "--detector.backbone.weights none"):
            assert part in str(told.value)
    assert not [p for p in cache.iterdir() if p.suffix != ".lock"]


def test_a_cache_that_cannot_be_used_is_named(served, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("QDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set QDET_CACHE to a folder"):
        download(Source(f"{served[1]}/w.pth", "0" * 64))


@pytest.mark.parametrize(
    "weights", ["weights/mine.pth", "package:swin_demo.safetensors", "none", "None", None]
)
def test_files_of_this_machine_need_no_digest(weights):
    check_verifiable(replace(SMALL, weights=weights), allow_unverified=False)


@pytest.mark.parametrize(
    ("config", "digits"),
    [
        (ResNetConfig(), 64),
        (ResNetConfig(depth=101), 64),
        (SwinConfig(size="t"), 64),
        (ResNeXtDCNConfig(), 64),
        (ResNetConfig(depth=101, groups=32, width_per_group=8), 8),
        (SwinConfig(size="s"), 0),
        (SwinConfig(size="b"), 0),
    ],
    ids=str,
)
def test_published_weights_have_the_digest_that_is_known_of_them(config, digits):
    source = config.imagenet
    assert source.url.startswith("https://")
    assert len(source.sha256 or "") == digits
    name = source.url.rpartition("-")[2].removesuffix(".pth")
    if digits and "swin" not in source.url:
        assert source.sha256[:8] == name


class Downloads(RuleBasedStateMachine):
    """Any order of publishing, downloading and losing files, against what a user was promised."""

    numbers = itertools.count()

    def __init__(self, folder, address) -> None:
        super().__init__()
        number = next(self.numbers)
        self.url = f"{address}/{number}/w.pth"
        self.file = folder / str(number) / "w.pth"
        self.file.parent.mkdir()
        self.published = b"0"
        self.file.write_bytes(self.published)
        self.trusted: bytes | None = None

    @rule(content=st.sampled_from([b"0", b"1", b"2"]))
    def publish(self, content):
        self.published = content
        self.file.write_bytes(content)

    @rule()
    def lose_cached_file(self):
        cached_path(self.url).unlink(missing_ok=True)

    @rule(allow=st.booleans(), pinned=st.sampled_from([None, b"0", b"1", b"2"]), whole=st.booleans())
    def download(self, allow, pinned, whole):
        cached = cached_path(self.url)
        offered = cached.read_bytes() if cached.exists() else self.published
        sha256 = pinned and digest(pinned)[: 64 if whole else 8]
        source = Source(self.url, sha256)
        vouched = allow or pinned is not None or self.trusted is not None
        right = pinned in (None, offered)
        same = self.trusted in (None, offered) or (pinned is not None and whole)
        if vouched and right and same:
            assert download(source, allow_unverified=allow).read_bytes() == offered
            self.trusted = offered
        else:
            with pytest.raises((CheckpointError, ConfigError)):
                download(source, allow_unverified=allow)

    @invariant()
    def what_is_cached_was_trusted(self):
        cached = cached_path(self.url)
        assert not cached.exists() or cached.read_bytes() == self.trusted


def test_any_order_of_downloads_keeps_to_what_was_first_trusted(served):
    folder, address, _ = served
    checks = settings(
        max_examples=30,
        stateful_step_count=12,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(lambda: Downloads(folder, address), settings=checks)


@given(st.text(alphabet="ab/?%.2F", max_size=12), st.text(alphabet="ab/?%.2F", max_size=12))
def test_two_urls_never_share_a_cached_file(one, other):
    first, second = (cached_path(f"https://host/{tail}") for tail in (one, other))
    assert (first == second) == (one == other)
    assert first.parent == second.parent
