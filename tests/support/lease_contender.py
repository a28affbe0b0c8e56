"""A process that contends for the terms of a lease."""

from typing import Any

from qdet.storage import Folder
from qdet.storage.lease import Owner, Terms


def claim_twenty(folder: str, start: Any, wins: Any) -> None:
    """Claim terms 1 to 20 once `start` is set; put the numbers that it got into `wins`, then None."""
    run = Terms(Folder.open(folder))
    start.wait()
    for number in range(1, 21):
        if run.claim(number, Owner.here(), 40.0):
            wins.put(number)
    wins.put(None)
