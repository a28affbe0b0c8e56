"""One writer per folder: terms, who holds one, waiting for it. In: numbered claims. Out: what is written.

A lease is a row of numbered terms in the folder `lease` of what it protects. A term is claimed by a file that
only one process can create; the highest number holds the lease, and its number fences off all lower ones.

    lease/term_000003.json            the claim: who holds the term, and for how long without a renewal
    lease/term_000003.beat            a count that its holder renews
    lease/term_000003.from_000500     the step from which its holder resumed
    lease/term_000003.released        its holder has let go

No clock is compared with another machine's: who waits watches the count, by its own clock.
"""

from qdet.storage.lease.acquire import Waiting, acquire
from qdet.storage.lease.hold import Hold, hold
from qdet.storage.lease.owner import Owner
from qdet.storage.lease.terms import LEASE, Fence, Terms

__all__ = ["LEASE", "Fence", "Hold", "Owner", "Terms", "Waiting", "acquire", "hold"]
