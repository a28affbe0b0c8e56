"""Where a server may lead: never on to this machine or its network, unless the user named that place.

A server that the user named may redirect, and names may change their addresses. Its operator could so have
this machine ask its own services, its neighbours or a cloud's metadata service. Every name is therefore
resolved here, and the connection goes to an address that was checked.
"""

import ipaddress
import os
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from aiohttp import ClientSession

PORTS = {"http": 80, "https": 443}


class ForbiddenAddressError(Exception):
    """A server led to an address of this machine or its network that the user has not named."""


@dataclass(frozen=True)
class GuardedClient:
    """Makes the sessions of fsspec's HTTP file system for one server that the user named."""

    named: tuple[str, int]
    """Its host and port, which may be anywhere."""

    @classmethod
    def of(cls, url: str) -> "GuardedClient":
        """Return what asks the server of a URL; raises ValueError for a port that is none."""
        return cls(_place_of(url))

    async def __call__(self, **settings: Any) -> "ClientSession":
        """Return a session; fsspec calls this in its event loop."""
        from aiohttp import ClientSession, TCPConnector, TraceConfig

        redirects = TraceConfig()
        redirects.on_request_redirect.append(self._check_redirect)
        connector = TCPConnector(resolver=_resolver(self))
        return ClientSession(connector=connector, trace_configs=[redirects], **settings)

    def allows(self, host: str, port: int) -> bool:
        """Whether the user named this place: the server itself, or a proxy."""
        return (host.lower(), port) in (self.named, *_proxies())

    async def _check_redirect(self, _: Any, __: Any, asked: Any) -> None:
        """Refuse a redirect to an address; that of a name is checked when it is resolved."""
        headers: Mapping[str, str] = asked.response.headers
        target = urljoin(str(asked.url), headers.get("Location") or headers.get("URI") or "")
        host, port = _place_of(target)
        if is_local(host) and not self.allows(host, port):
            raise ForbiddenAddressError(
                f"it leads to {host}:{port}, an address of this machine or its network"
            )


def is_local(address: str) -> bool:
    """Whether an address in figures means this machine or a network off the internet; no for a name.

    An IPv4 address inside an IPv6 one counts, and so do all forms that systems connect to, such as 127.1.
    """
    found = _parse(address.partition("%")[0])
    if found is None:
        return False
    inside = []
    if isinstance(found, ipaddress.IPv6Address):
        teredo = found.teredo or ()
        inside = [found.ipv4_mapped, found.sixtofour, *teredo]
        if found in _NAT64:
            inside.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
    embedded = [one for one in inside if one is not None]
    plain = not found.is_global or found.is_multicast
    return any(is_local(str(one)) for one in embedded) or (plain and not embedded)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(address))
    except (OSError, UnicodeError):
        return None


_FORBIDDEN = "an address of this machine or its network"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _resolver(client: GuardedClient) -> Any:
    """Return a resolver of aiohttp that leaves out addresses which the client may not be led to."""
    from aiohttp import ThreadedResolver

    class CheckedResolver(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[Any]:
            found = await super().resolve(host, port, family)
            if client.allows(host, port):
                return found
            allowed = [one for one in found if not is_local(one["host"])]
            if not allowed:
                there = found[0]["host"]
                raise ForbiddenAddressError(f"it leads to {host}:{port}, which is {there}, {_FORBIDDEN}")
            return allowed

    return CheckedResolver()


def _place_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0)


def _proxies() -> list[tuple[str, int]]:
    """Return host and port of the environment's proxies, which the user named."""
    if not any("proxy" in name.lower() for name in os.environ):
        return []
    return [_place_of(url) for url in urllib.request.getproxies().values() if "://" in url]
