"""A connection between two processes that share a secret: messages with a tag each, and no others get in.

The two prove to each other that they know the secret (HMAC-SHA256 over a fresh random number of each, RFC
2104) before either reads a message. Keys of the connection follow from both numbers, and every message has a
tag over its number and content: a recorded, repeated, reordered or changed message ends the connection.
Contents are not encrypted.
"""

import hashlib
import hmac
import secrets
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import msgspec

HANDSHAKE = 10.0
"""Seconds that a stranger has to prove that it knows the secret."""
LONGEST = 16 * 2**20
"""Bytes of the longest message."""
_GREETING = b"qdet join 1\n"
_NONCE, _TAG, _LENGTH = 32, 32, struct.Struct(">I")


class JoinError(ConnectionError):
    """Another process does not know the secret of the run, or a message is not what was sent."""


@dataclass
class Channel:
    """One end of a connection; `connect` and `accept` make it. One thread at a time may use it."""

    socket: socket.socket
    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)
    sent: int = 0
    received: int = 0

    def send(self, message: Any) -> None:
        """Send plain values: numbers, text, bytes, lists."""
        content = msgspec.msgpack.encode(message)
        tag = _sign(self.sending, self.sent, content)
        self.socket.sendall(_LENGTH.pack(len(content)) + tag + content)
        self.sent += 1

    def receive(self) -> Any:
        """Wait for a message and return it.

        Raises:
            JoinError: It is not what the other process sent.
            OSError: The connection is closed or broken.
        """
        length = _LENGTH.unpack(_read(self.socket, _LENGTH.size))[0]
        if length > LONGEST:
            raise JoinError("a message between ranks is too long")
        tag, content = _read(self.socket, _TAG), _read(self.socket, length)
        if not hmac.compare_digest(tag, _sign(self.receiving, self.received, content)):
            raise JoinError("a message between ranks was changed on its way")
        self.received += 1
        return msgspec.msgpack.decode(content)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def connect(address: tuple[str, int], secret: bytes, *, timeout: int | float) -> Channel:
    """Connect to a process that knows the secret.

    Raises:
        JoinError: What listens there does not know it.
        OSError: Nothing listens there.
    """
    joined = socket.create_connection(address, timeout)
    try:
        _configure(joined, min(timeout, HANDSHAKE))
        if _read(joined, len(_GREETING)) != _GREETING:
            raise JoinError("what listens there is no rank of a run")
        theirs, mine = _read(joined, _NONCE), secrets.token_bytes(_NONCE)
        joined.sendall(mine + _prove(secret, b"member", theirs, mine))
        answer = _read(joined, _TAG)
        if not hmac.compare_digest(answer, _prove(secret, b"host", theirs, mine)):
            raise JoinError("what listens there does not know the secret of this run")
        return _open(joined, secret, theirs + mine, hosting=False)
    except BaseException:
        joined.close()
        raise


def accept(joined: socket.socket, secret: bytes) -> Channel:
    """Return the channel to a process that has just connected, once it has proved that it knows the secret.

    Raises:
        JoinError: It does not; the connection is closed.
        OSError: It has gone, or proves nothing in time.
    """
    try:
        _configure(joined, HANDSHAKE)
        mine = secrets.token_bytes(_NONCE)
        joined.sendall(_GREETING + mine)
        theirs, proof = _read(joined, _NONCE), _read(joined, _TAG)
        if not hmac.compare_digest(proof, _prove(secret, b"member", mine, theirs)):
            raise JoinError("a process that does not know the secret of this run asked to join it")
        joined.sendall(_prove(secret, b"host", mine, theirs))
        return _open(joined, secret, mine + theirs, hosting=True)
    except BaseException:
        joined.close()
        raise


def _configure(joined: socket.socket, timeout: int | float) -> None:
    joined.settimeout(timeout)
    joined.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    joined.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _open(joined: socket.socket, secret: bytes, nonces: bytes, *, hosting: bool) -> Channel:
    joined.settimeout(None)
    to_host, to_member = (_mac(secret, name + nonces) for name in (b"to host", b"to member"))
    return Channel(joined, *((to_member, to_host) if hosting else (to_host, to_member)))


def _prove(secret: bytes, role: bytes, host_nonce: bytes, member_nonce: bytes) -> bytes:
    return _mac(secret, b"proof of " + role + host_nonce + member_nonce)


def _sign(key: bytes, number: int, content: bytes) -> bytes:
    return _mac(key, number.to_bytes(8, "big") + content)


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, hashlib.sha256)


def _read(joined: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        chunk = joined.recv(min(size - len(content), 2**16))
        if not chunk:
            raise ConnectionError("the other process closed the connection")
        content += chunk
    return bytes(content)
