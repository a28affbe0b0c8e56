"""Terms of a lease in the names of a checkpoint's files, and checkpoints of who had lost the lease.

An attempt of training is named by random letters, after its term where it holds a lease: `t3-3f2a9c1b`.
No store can check a lease and write a manifest as one event: a process that is paused between the two may
complete a checkpoint after another has taken over. That one recorded from which step it resumed, so that what
the first has written beyond is known.
"""

import re
import secrets

from qdet.checkpoint.manifest import Manifest
from qdet.storage.lease import Fence, Terms

_TERM = re.compile(r"t(\d+)-[0-9a-f]+")


def name_attempt(fence: Fence | None) -> str:
    """Return new letters for the names of files."""
    return ("" if fence is None else f"t{fence.number}-") + secrets.token_hex(4)


def term_of(attempt: str) -> int | None:
    """Return the term in the name of an attempt; None without one.

    >>> term_of("t3-3f2a9c1b"), term_of("3f2a9c1b")
    (3, None)
    """
    found = _TERM.fullmatch(attempt)
    return int(found[1]) if found else None


def written_after(manifest: Manifest, terms: Terms) -> str:
    """Return why a checkpoint does not count: its writer had lost the lease by then; "" where it counts."""
    term = term_of(manifest.attempt)
    if term is None:
        return ""
    later = [start for number, start in terms.view().starts.items() if number > term]
    if not any(manifest.step > start for start in later):
        return ""
    return f"was written by a driver that had lost its lease: another had resumed from step {min(later)}"
