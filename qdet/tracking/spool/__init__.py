"""What waits for the server on this machine's disk. In: records and files. Out: sending them."""

from qdet.tracking.spool.spool import Spool, SpoolFullError
from qdet.tracking.spool.thinning import Record

__all__ = ["Record", "Spool", "SpoolFullError"]
