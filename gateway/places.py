"""How many may be there at once: in all, and of each person or address."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.kit.errors import Overloaded

OVERLOADED = "OVERLOADED"
"""There are too many in all."""


class Places:
    """`most` places for what `noun` names in the plural, of which each key has `each` at most; the empty key, which is nobody's, as many
    as there are."""

    def __init__(self, most: int, each: int, noun: str) -> None:
        self.most, self.each, self.noun = most, each, noun
        self.inside = 0
        self.of: Counter[str] = Counter()

    def take(self, key: str) -> None:
        """Takes a place. `Overloaded` when none is free."""
        if self.inside >= self.most:
            raise Overloaded(OVERLOADED, f"too many {self.noun} at once; try again")
        if key and self.of[key] >= self.each:
            raise Overloaded(f"TOO_MANY_{self.noun.upper()}", f"you have {self.each} {self.noun} already; end one of them first")
        self.inside += 1
        self.of[key] += 1

    def leave(self, key: str) -> None:
        """Gives one back."""
        self.inside -= 1
        self.of[key] -= 1
        if not self.of[key]:
            del self.of[key]

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Within the block one place is taken. `Overloaded` when none is free."""
        self.take(key)
        try:
            yield
        finally:
            self.leave(key)
