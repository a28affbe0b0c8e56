"""What stands before the routes: the bearer token, and the count of requests."""

import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qdet.serving.metrics import ServiceMetrics
from qdet.serving.refusal import refuse
from qdet.serving.settings import TokenCheck

OPEN = ("/health", "/", "/docs")
"""Paths that need no token: they say nothing of the model, and load balancers and browsers send none."""


@dataclass(frozen=True)
class RequireToken:
    """Answers 401 to requests without the bearer token."""

    app: ASGIApp
    token: TokenCheck

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] != "http" or scope["path"] in OPEN or self._is_allowed(scope):
            await self.app(scope, receive, send)
            return
        reason = "send the service's token in the header `Authorization: Bearer TOKEN`"
        await refuse(401, reason, {"WWW-Authenticate": "Bearer"})(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and self.token.accepts(token.strip())


@dataclass(frozen=True)
class CountRequests:
    """Counts requests and their time by path and status."""

    app: ASGIApp
    metrics: ServiceMetrics
    paths: frozenset[str]
    """Those that are counted by name; clients invent any number of others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count it at its end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # the client left before an answer

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            status = 500
            raise
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.observe_request(path, status, time.monotonic() - began)
