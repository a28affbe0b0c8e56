"""`qdet serve`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, arg

from qdet.errors import ConfigError
from qdet.inference import SCORE
from qdet.launching.commands.models.model_flags import ModelFlags, ModelSource

if TYPE_CHECKING:
    from qdet.inference.description import Description
    from qdet.serving.settings import Limits, ServiceSettings
    from qdet.serving.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """What clients may send, and how long anything may take."""

    max_mib: float = 20.0
    """MiB of a request, of all its files together."""
    max_pixels: int = 50_000_000
    """Pixels of the largest image that is decoded."""
    max_files: int = 16
    """Files of one request."""
    queue: int = 64
    """Images that may wait, and requests that may run, in each replica; more are answered 503."""
    upload_seconds: float = 30.0
    """Time for a client to send its request."""
    answer_seconds: float = 60.0
    """Time for the model to answer it."""

    def resolve(self) -> "Limits":
        """Return the service's limits."""
        from qdet.serving.settings import Limits

        if self.max_mib <= 0:
            raise ConfigError(f"--max-mib must be above 0, got {self.max_mib:g}")
        given = asdict(self)
        return Limits(max_bytes=int(given.pop("max_mib") * 2**20), **given)


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Answer HTTP requests with a model: POST an image to /predict, and read /docs in a browser."""

    model: ModelSource
    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen at; any other than loopback demands a token: QDET_SERVE_TOKEN, or a generated one."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    replicas: Annotated[str, arg(metavar="N[:M]")] = "1"
    """Processes with the model: a number, or 1:4 for as many as the load needs."""
    score: float = SCORE
    """Least score of detections where a request names none."""
    detections: int = 100
    """Most detections per image where a request names no number."""
    batch: int | None = None
    """Images per forward pass; by default as many as the job evaluated with."""
    wait_ms: float = 5.0
    """How long an idle model waits for more images to share a batch."""
    tls_cert: Path | None = None
    """Certificate for https, with --tls-key."""
    tls_key: Path | None = None
    """Private key of the certificate."""
    limits: OmitArgPrefixes[LimitFlags] = field(default_factory=LimitFlags)
    load: OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)

    def run(self, _: Sequence[str]) -> int:
        """Serve until Ctrl-C or SIGTERM; running requests are answered first."""
        from qdet.launching.commands.models.listening import free_port
        from qdet.launching.commands.models.serving import parse_replicas, serve_until_stopped
        from qdet.serving.spec import DeploymentSpec

        replicas, port, tls = parse_replicas(self.replicas), free_port(self.host, self.port), self._tls()
        if self.load.device.startswith("cuda:"):
            raise ConfigError(f"--device {self.load.device}: each replica sees one GPU; give cuda")
        token = self._token()
        # Loaded once here, so that what is wrong with the model or a setting is said before Ray starts.
        description = self.load.open(self.model).description
        spec = DeploymentSpec(
            model=self._name_weights(description),
            settings=self._settings(description, token),
            host=self.host,
            port=port,
            tls=tls,
            replicas=replicas,
        )
        serve_until_stopped(spec)
        return 0

    def _settings(self, description: "Description", token: str | None) -> "ServiceSettings":
        from qdet.serving.settings import ServiceSettings, TokenCheck

        return ServiceSettings(
            score=self.score,
            detections=self.detections,
            batch_size=self.batch or min(description.eval.batch_size, self.limits.queue),
            wait_seconds=self.wait_ms / 1000,
            limits=self.limits.resolve(),
            token=None if token is None else TokenCheck.of(token),
        )

    def _name_weights(self, description: "Description") -> "ModelSpec":
        """Name the weights found now: a run in training may have better ones by the next replica."""
        from qdet.inference.from_mlflow import is_mlflow, is_run_id
        from qdet.inference.origin import shipped
        from qdet.launching.paths import absolute
        from qdet.serving.spec import ModelSpec

        source = self.model
        if shipped(source) is not None:
            source = f"package:{source.removeprefix('package:')}"  # replicas start in another folder
        elif not (is_mlflow(source) or is_run_id(source)):
            source = absolute(description.source or source)
        return ModelSpec(
            source=source,
            device=self.load.device,
            precision=self.load.precision,
            averaged=not self.load.weights,
        )

    def _token(self) -> str | None:
        from qdet.launching.commands.models.listening import choose_token
        from qdet.launching.paths import state_folder

        token, file = choose_token(self.host, os.environ, state_folder())
        if file is not None:
            print(f"clients need the token in {file}: Authorization: Bearer TOKEN", file=sys.stderr)
        return token

    def _tls(self) -> dict[str, str]:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together")
        if self.tls_cert is None or self.tls_key is None:
            return {}
        for flag, file in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if not file.is_file():
                raise ConfigError(f"{flag} {file} is not there")
        return {"ssl_certfile": str(self.tls_cert.absolute()), "ssl_keyfile": str(self.tls_key.absolute())}
