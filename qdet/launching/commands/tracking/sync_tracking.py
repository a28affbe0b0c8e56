"""`qdet sync-tracking`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class SyncTrackingCommand:
    """Send MLflow the points that its server did not take while runs trained."""

    folder: Positional[Path] = Path(".qdet/tracking")
    """Spool of one run, or a folder that holds several."""

    def run(self, _: Sequence[str]) -> int:
        """Send them, and print how many."""
        from qdet.tracking import send_spool

        print(f"sent {send_spool(self.folder)} records")
        return 0
