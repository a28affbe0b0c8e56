"""Requests that are refused: a status and the reason in plain words."""

import json
from collections.abc import Mapping

from starlette.responses import Response

RETRY_AFTER = {"Retry-After": "1"}
"""Header of what may succeed a second later."""


class Refusal(Exception):
    """Ends a request with a status of 400 and above."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})

    def response(self) -> Response:
        """Return the answer to the client."""
        return refuse(self.status, self.reason, self.headers)


def refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return `{"error": reason}` with that status."""
    body = json.dumps({"error": reason}, ensure_ascii=False).encode(errors="replace")
    return Response(body, status, dict(headers or {}), media_type="application/json")
