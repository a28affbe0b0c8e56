"""Proxies of the environment: never used within this machine, and named where one may be the cause."""

import os
import urllib.request
from collections.abc import Mapping, MutableMapping
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EXEMPT = ("no_proxy", "NO_PROXY")  # libraries look at one or the other
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def exempt_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep loopback off the proxies of `environment`; none without a proxy.

    What else is exempt stays so.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return {}
    listed = [part for name in _EXEMPT for part in environment.get(name, "").split(",") if part.strip()]
    names = dict.fromkeys([*(part.strip() for part in listed), *LOOPBACK])
    return dict.fromkeys(_EXEMPT, ",".join(names))


def exempt_loopback_here(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep loopback off the proxies in this process and those it starts."""
    environment.update(exempt_loopback(environment))


def name_proxy(url: str) -> str:
    """Return ` through the proxy ADDRESS`, if that is how `url` is reached, for messages; else nothing."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return ""
    return f" through the proxy {proxy}"
