"""The one family of refusals. Rules raise them, `kit.status` carries them over gRPC, the gateway turns them into types.

Nothing here knows gRPC. A reason is a member of the use case's own `Reason(StrEnum)`; metadata are the facts a caller needs
to act on (ids, limits, times), never personal data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum


class Refusal(Exception):
    """Base of the family.

    `reason` names the rule that refused, `message` says to a person what to do next, `metadata` carries the facts.
    `retryable` tells whether the same call may succeed later without anything else being changed by the caller.
    """

    retryable = False

    def __init__(self, reason: StrEnum | str, message: str = "", /, *, retry_after: timedelta | None = None, **metadata: object) -> None:
        self.reason = str(reason)
        self.message = message or self.reason.lower().replace("_", " ")
        self.retry_after = retry_after
        self.metadata = {name: str(value) for name, value in metadata.items()}
        super().__init__(f"{self.reason}: {self.message}")


class Invalid(Refusal):
    """The request itself is wrong: it will never succeed as it is. `field` in the metadata is the path of the part: `lines[0].price`."""

    def under(self, field: str) -> "Invalid":
        """The same, told of the whole that has `field`: what was `price` is `product.price`."""
        inner = self.metadata.get("field")
        self.metadata["field"] = f"{field}.{inner}" if inner else field
        return self


@contextmanager
def under(field: str) -> Iterator[None]:
    """Whatever is refused as `Invalid` inside is a part of `field`."""
    try:
        yield
    except Invalid as refused:
        raise refused.under(field) from None


class NotFound(Refusal):
    """There is no such thing within the caller's scope."""


class Denied(Refusal):
    """The caller may not do this."""


class Conflict(Refusal):
    """The state does not allow this now; the reason says which state."""


class Exhausted(Refusal):
    """A budget, a stock, a quota or a queue has nothing left."""


class Unavailable(Refusal):
    """Something this depends on does not answer; the same call may be made again."""

    retryable = True


class Overloaded(Exhausted):
    """A bounded queue is full: the work was not begun and the same call may be made again."""

    retryable = True


FAMILY: tuple[type[Refusal], ...] = (Invalid, NotFound, Denied, Conflict, Exhausted, Unavailable, Overloaded)
