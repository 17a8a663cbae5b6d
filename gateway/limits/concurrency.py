"""Concurrency limiter: a total number of slots, and a number for each principal or address."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.kit.errors import Overloaded

OVERLOADED = "OVERLOADED"
"""The reason of a refusal when all slots are in use."""


class ConcurrencyLimiter:
    """A limiter with `total_max` slots, of which each key may hold `key_max`; the empty key has no such limit. `noun`: the plural of the
    things that take slots."""

    def __init__(self, total_max: int, key_max: int, noun: str) -> None:
        self.total_max, self.key_max, self.noun = total_max, key_max, noun
        self.used = 0
        self.used_by_key: Counter[str] = Counter()

    def acquire(self, key: str = "") -> None:
        """Takes a slot. Raises `Overloaded` if none is free."""
        if self.used >= self.total_max:
            raise Overloaded(OVERLOADED, f"Too many {self.noun} at once. Retry later.")
        if key:
            if self.used_by_key[key] >= self.key_max:
                raise Overloaded(f"TOO_MANY_{self.noun.upper()}", f"You already have {self.key_max} {self.noun}. End one of them first.")
            self.used_by_key[key] += 1
        self.used += 1

    def release(self, key: str = "") -> None:
        """Returns a slot."""
        self.used -= 1
        if key:
            self.used_by_key[key] -= 1
            if not self.used_by_key[key]:
                del self.used_by_key[key]

    @contextmanager
    def slot(self, key: str) -> Iterator[None]:
        """Holds a slot for the time of the block. Raises `Overloaded` if none is free."""
        self.acquire(key)
        try:
            yield
        finally:
            self.release(key)
