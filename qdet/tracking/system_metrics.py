"""CPU, memory, disk, network and GPU use of this machine, sampled on its own thread.

MLflow's own monitor asks its server before every sample and stops for good when one request fails, so only
its collectors are used.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from qdet.tracking.server import load_mlflow

_log = logging.getLogger(__name__)
CLOSING = 2.0
"""Seconds to wait for the sample being taken."""


class SystemMetrics:
    """Calls `report` every `interval` seconds with the means since the last call."""

    def __init__(
        self, report: Callable[[dict[str, float]], None], *, interval: float | int, node: str | None
    ) -> None:
        self._report, self._interval = report, interval
        self._prefix = f"system/{node}/" if node else "system/"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="qdet-system-metrics")
        self._thread.start()

    def close(self) -> None:
        """Stop sampling, and wait shortly for the thread to end."""
        self._stop.set()
        self._thread.join(CLOSING)

    def _sample(self) -> None:
        try:
            collectors = _collectors()
            while not self._stop.is_set():
                for collector in collectors:
                    collector.collect_metrics()
                self._stop.wait(self._interval)
                found = {
                    k: float(v) for collector in collectors for k, v in collector.aggregate_metrics().items()
                }
                for collector in collectors:
                    collector.clear_metrics()
                self._report({self._prefix + key: value for key, value in found.items()})
        except Exception as error:
            _log.warning("system metrics end here: %s: %s", type(error).__name__, error)


def _collectors() -> list[Any]:
    load_mlflow()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for of_gpu in (GPUMonitor, ROCMMonitor):
        try:
            found.append(of_gpu())
            break
        except Exception:  # raises driver errors where there is no such GPU
            _log.debug("no metrics by %s", of_gpu.__name__)
    return found
