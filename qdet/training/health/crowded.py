"""Objects of crowded images that get no extra queries, because their image has too many."""

from collections.abc import Mapping

from qdet.data.denoising.config import DenoisingConfig

DROPPED = "train/denoising/dropped"
"""Metric: such objects of a step, on average since the last log."""


class CrowdedImages:
    """Says once that there are some."""

    def __init__(self, config: DenoisingConfig) -> None:
        self._config, self._said = config, False

    def look(self, metrics: Mapping[str, float], step: int) -> None:
        """Look at what is logged after a step."""
        dropped = metrics.get(DROPPED, 0.0)
        if self._said or dropped <= 0:
            return
        self._said = True
        limit = f"--detector.denoising.max-queries {self._config.max_queries}"
        print(
            f"up to step {step}, {dropped:.1f} objects of a step had no extra queries: "
            f"their images take more than {limit}. {DROPPED} counts further ones",
            flush=True,
        )
