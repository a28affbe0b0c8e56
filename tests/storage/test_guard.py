"""A server leads nowhere into this machine or its network, by no redirect and behind no name."""

import asyncio
import ipaddress
import pickle
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.errors import StorageError
from qdet.storage import Folder, guard, network
from qdet.storage.guard import ForbiddenAddressError, GuardedClient, is_local

LOCAL = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "255.255.255.255", "224.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "fc00::1",
    "127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1",
]  # fmt: skip
ELSEWHERE = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NAMES = ["localhost", "example.org", "", "10.example", "8.8"]


@pytest.mark.parametrize("address", LOCAL)
def test_addresses_of_this_machine_and_its_network(address):
    assert is_local(address)


@pytest.mark.parametrize("address", ELSEWHERE + NAMES)
def test_other_addresses_and_names(address):
    assert not is_local(address)


NETWORKS = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
]  # fmt: skip


@given(st.ip_addresses(v=4) | st.sampled_from(NETWORKS).flatmap(lambda n: st.ip_addresses(network=n)))
def test_the_registry_of_special_addresses_is_kept_also_inside_ipv6(address):
    """RFC 6890, section 2.2.2, and multicast; 192.0.0.0/24 has exceptions that Python knows."""
    if address in ipaddress.ip_network("192.0.0.0/24"):
        return
    expected = any(address in ipaddress.ip_network(network) for network in NETWORKS)
    assert is_local(str(address)) == expected
    assert is_local(f"::ffff:{address}") == expected
    assert (
        is_local(str(ipaddress.ip_address(int(ipaddress.ip_address("64:ff9b::")) + int(address)))) == expected
    )


@contextmanager
def server(answer):
    """A server on loopback; `answer(path)` gives a Location, or None for content."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            location = answer(self.path)
            self.send_response(302 if location else 200)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0" if location else "6")
            self.end_headers()
            if not location:
                self.wfile.write(b"secret")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


@pytest.fixture
def inner():
    """A service of this machine that nobody named."""
    with server(lambda path: None) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(network, "PAUSES", ())


def test_what_the_user_named_is_read_and_so_are_redirects_within_it(inner):
    place, _ = inner
    assert Folder.open(f"http://{place}").read("x") == b"secret"
    with server(lambda path: "/there" if path == "/data/x" else None) as (outer, asked):
        assert Folder.open(f"http://{outer}/data").read("x") == b"secret"
        assert asked[-2:] == ["/data/x", "/there"]


FORMS = ["http://{place}/x", "http://localhost:{port}/x", "http://127.1:{port}/x", "http://0x7f000001:{port}/x",
         "http://[::ffff:127.0.0.1]:{port}/x", "//{place}/x", "http://user@{place}/x"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_redirect_to_this_machine_is_refused(form, inner):
    place, asked = inner
    target = form.format(place=place, port=place.partition(":")[2])
    with server(lambda path: target) as (outer, _):
        folder = Folder.open(f"http://{outer}/data")
        for read in (folder.read, folder.size, lambda name: folder.reader(name).__enter__().read(10)):
            with pytest.raises(StorageError, match=r"it leads to .* an address of this machine") as raised:
                read("x")
            assert not raised.value.transient
    assert asked == []


def test_a_redirect_through_another_is_checked_too(inner):
    place, asked = inner
    with (
        server(lambda path: f"http://{place}/x" if path == "/second" else "/second") as (outer, _),
        pytest.raises(StorageError, match="leads to"),
    ):
        Folder.open(f"http://{outer}").read("first")
    assert asked == []


def resolved(monkeypatch, addresses):
    """What the resolver makes of a name that has these addresses now."""

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": address, "port": port} for address in addresses]

    from aiohttp import ThreadedResolver

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)

    async def ask():
        found = await guard._resolver(GuardedClient.of("http://named.example/x")).resolve("other.example", 80)
        return [one["host"] for one in found]

    return asyncio.run(ask())


def test_a_name_leads_to_its_public_addresses_alone(monkeypatch):
    assert resolved(monkeypatch, ["10.0.0.1", "8.8.8.8", "::1"]) == ["8.8.8.8"]
    with pytest.raises(ForbiddenAddressError, match=r"other\.example:80, which is 10\.0\.0\.1"):
        resolved(monkeypatch, ["10.0.0.1", "::1"])


def test_the_place_that_was_named_may_be_private_and_nothing_beside_it(monkeypatch):
    client = GuardedClient.of("https://Store.internal/data")
    assert client.named == ("store.internal", 443)
    assert client.allows("STORE.internal", 443)
    assert not client.allows("store.internal", 22)
    assert not client.allows("other.internal", 443)
    monkeypatch.setenv("http_proxy", "http://10.0.0.7:3128")
    assert client.allows("10.0.0.7", 3128)
    assert pickle.loads(pickle.dumps(client)) == client
