"""`qdet ui`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UiCommand:
    """Show the runs in MLflow's page: best first, with the columns that matter. Ctrl-C ends it."""

    tracking_uri: str | None = None
    """Database or server of the runs; by default MLFLOW_TRACKING_URI, or mlflow.db in this folder."""
    experiment: str = "qdet"
    """MLflow experiment to show, as --track.experiment of a job."""
    port: int = 0
    """Where the page is served, on this machine only; by default 5000, or a free port if that is taken."""
    sweeps: bool = False
    """Show the latest runs first, trials below their sweeps, with how they ended."""
    browser: bool = True
    """Open a browser; --no-browser only prints the address."""

    def run(self, _: Sequence[str]) -> int:
        """Serve the page until Ctrl-C."""
        from qdet.launching.commands.tracking.page import show_runs

        return show_runs(
            uri=self.tracking_uri,
            experiment=self.experiment,
            port=self.port,
            browser=self.browser,
            sweeps=self.sweeps,
        )
