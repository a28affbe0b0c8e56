"""How a service answers: sizes of batches, limits on what clients may send, who may ask."""

import hashlib
import hmac
from dataclasses import dataclass, field

from qdet.errors import ConfigError
from qdet.inference import SCORE


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may send, and how long anything may take."""

    max_bytes: int = 20 * 2**20
    """Bytes of a request's body, of all its files together."""
    max_pixels: int = 50_000_000
    """Pixels of an image, by its header: larger ones are not decoded."""
    max_files: int = 16
    """Files of one request."""
    max_detections: int = 1000
    """Detections per image that a client may ask for."""
    max_size: int = 1333
    """Largest short side in pixels that a client may have images resized to."""
    queue: int = 64
    """Images that may wait for the model, and requests that may run, in each replica."""
    upload_seconds: float = 30.0
    """Time for a client to send its request."""
    answer_seconds: float = 60.0
    """Time until the model answers, waiting included."""

    def __post_init__(self) -> None:
        """Reject limits under which no request could be answered."""
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How a service batches and answers."""

    score: float = SCORE
    """Least score of detections where a request names none."""
    detections: int = 100
    """Most detections per image where a request names no number."""
    batch_size: int = 8
    """Images per forward pass."""
    wait_seconds: float = 0.005
    """How long an idle model waits for more images to share a batch."""
    in_flight: int = 2
    """Batches at a time: one is decoded while another is computed."""
    padding: float = 0.25
    """Padding that a batch of different sizes may add, as a share of its images' own pixels."""
    limits: Limits = field(default_factory=Limits)
    token: "TokenCheck | None" = None
    """Whom to answer; None: everyone who can connect."""

    def __post_init__(self) -> None:
        """Reject what cannot work."""
        if not 0 <= self.score <= 1:
            raise ConfigError(f"--score must be between 0 and 1, got {self.score}")
        if not 1 <= self.detections <= self.limits.max_detections:
            raise ConfigError(
                f"--detections must be 1 to {self.limits.max_detections}, got {self.detections}"
            )
        if not 1 <= self.batch_size <= self.limits.queue:
            raise ConfigError(f"--batch must be 1 to --queue {self.limits.queue}, got {self.batch_size}")
        if self.wait_seconds < 0:
            raise ConfigError(f"--wait-ms must not be negative, got {1000 * self.wait_seconds:g}")


@dataclass(frozen=True)
class TokenCheck:
    """Recognizes a bearer token without holding it, so that a cluster never stores it."""

    digest: str = field(repr=False)
    """Its SHA-256, in hexadecimal."""

    @classmethod
    def of(cls, token: str) -> "TokenCheck":
        """Recognize this token."""
        return cls(_digest(token.encode()))

    def accepts(self, token: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.digest, _digest(token))


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()
