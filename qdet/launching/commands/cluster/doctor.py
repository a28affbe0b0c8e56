"""`qdet doctor`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from qdet.errors import ConfigError
from qdet.launching.exit_status import Exit

if TYPE_CHECKING:
    from qdet.launching.doctor.examiner import Request
    from qdet.launching.doctor.facts import Facts


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Examine this machine, or every node of a Ray cluster, and say what would keep a training from running.

    Versions, GPUs, network, store, disks, datasets, MLflow, token, clocks, ports and limits. Ends with 1
    where something is wrong, and with 0 where nothing is, warnings or not.
    """

    store: Annotated[str, arg(metavar="DIR")] = "outputs"
    """Folder or URL, the --store.path of the runs; a probe is written to it and removed."""
    data: Annotated[tuple[str, ...], arg(metavar="PATH ...", help_behavior_hint="")] = ()
    """Folders or patterns of shards that must be the same on every node."""
    ports: Annotated[tuple[int, ...], arg(metavar="PORT ...", help_behavior_hint="")] = ()
    """Ports that must be free on every node; without a cluster by default those of a Ray head."""
    ray_address: str | None = None
    """Ray cluster to examine: host:port or auto; by default RAY_ADDRESS or the head of `qdet head up`; local
    examines this machine alone."""
    patience: float = 10.0
    """Seconds to wait for an answer of a node."""
    json: bool = False
    """Print one JSON object: findings, and the facts that they follow from."""

    def run(self, _: Sequence[str]) -> int:
        """Gather facts, judge them, and print what was found."""
        from qdet.console import open_console
        from qdet.launching.doctor import report
        from qdet.launching.doctor.diagnose import diagnose
        from qdet.launching.doctor.findings import worst

        facts = self._examine(self._request())
        findings = diagnose(facts)
        if self.json:
            print(report.as_json(findings, facts))
        else:
            report.show(findings, open_console(width=None if sys.stdout.isatty() else 110))
        return Exit.FAILED if worst(findings) == "wrong" else Exit.DONE

    def _request(self) -> "Request":
        from qdet.data.config import DataConfig
        from qdet.launching import paths
        from qdet.launching.doctor.examiner import Request
        from qdet.storage.braces import expand_braces

        if not 0 < self.patience < 3600:
            raise ConfigError(f"--patience {self.patience:g}: must be above 0 and below 3600 seconds")
        for port in self.ports:
            if not 0 < port < 65536:
                raise ConfigError(f"--ports {port}: a port is a number from 1 to 65535")
        for path in self.data:
            try:
                expand_braces(path)
            except ValueError as error:
                raise ConfigError(f"--data {path}: {error}") from error
        return Request(
            store=paths.absolute(self.store),
            data=tuple(paths.absolute(path) for path in self.data),
            ports=self.ports,
            cache=DataConfig.cache,
            mlflow=paths.tracking_uri(),
            patience=self.patience,
        )

    def _examine(self, request: "Request") -> "Facts":
        from dataclasses import replace

        from qdet.launching.doctor.alone import examine_machine
        from qdet.launching.ray_backend import connect, head
        from qdet.storage.sockets import HOST

        address = connect.locate(self.ray_address)
        if address is None:
            ports = self.ports or tuple(head.PORTS.values())
            facts = examine_machine(replace(request, ports=ports), HOST)
            return replace(facts, ports_asked=bool(self.ports))
        from qdet.launching.doctor.cluster import examine_cluster
        from qdet.launching.ray_backend.worker_output import forwarded_to
        from qdet.training.reporting import PlainLines

        connect.connect(address)
        try:
            with forwarded_to(PlainLines(), lambda line: True):  # none of Ray's lines between those of --json
                return replace(examine_cluster(request, address), ports_asked=True)
        finally:
            connect.disconnect()
