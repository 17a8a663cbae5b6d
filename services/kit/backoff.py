"""How long to wait before trying again: longer each time, up to a cap, and never in step with others."""

import random

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """Doubles from `first_seconds` up to `cap_seconds`; a random half of it is taken off, so that crowds spread."""

    first_seconds: float
    cap_seconds: float

    def seconds(self, failures: int) -> float:
        """The wait after this many failures in a row (1, 2, 3 …)."""
        # The exponent is capped too: a float must not overflow after a long outage.
        full = min(self.cap_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.5, 1)
