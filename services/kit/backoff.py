"""Exponential backoff with a cap and random jitter, so that clients do not retry at the same time."""

import random

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """A wait that doubles from `first_seconds` up to `cap_seconds`, of which up to half is subtracted at random."""

    first_seconds: float
    cap_seconds: float

    def seconds(self, failures: int) -> float:
        """Returns the wait after this many failures in a row (1, 2, 3 …)."""
        # The exponent is capped too: a float must not overflow after a long outage.
        full = min(self.cap_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.5, 1)
