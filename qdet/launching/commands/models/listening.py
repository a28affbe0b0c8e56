"""Where a service listens, and the token that those who ask it need."""

import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from qdet.errors import ConfigError

TOKEN = "QDET_SERVE_TOKEN"
SHORTEST = 16
"""Characters of a token that is not guessed."""


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        ConfigError: The host is no address of this machine, or something listens there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port} cannot be listened at: {reason}") from error


def is_loopback(host: str) -> bool:
    """True where only this machine can connect."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_token(host: str, environment: Mapping[str, str], folder: Path) -> tuple[str | None, Path | None]:
    """Return the token that clients need, and the file that it is in if it was generated here.

    Args:
        host: A loopback address needs none.
        environment: Where a user's own is, as QDET_SERVE_TOKEN.
        folder: Holds the generated one, readable only by its owner; kept from one start to the next.

    Raises:
        ConfigError: The user's own is too short.
    """
    own = environment.get(TOKEN)
    if own is not None:
        if len(own) < SHORTEST or not own.isascii() or own != own.strip():
            raise ConfigError(
                f"{TOKEN} must be at least {SHORTEST} ASCII characters without spaces around it"
            )
        return own, None
    if is_loopback(host):
        return None, None
    file = folder / "serve-token"
    if not file.is_file():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_urlsafe(32))
    return file.read_text().strip(), file
