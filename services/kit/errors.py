"""Refusals: the errors that a caller can act on. Rules raise them, `kit.status` maps them to gRPC, the gateway to GraphQL types.

Nothing here knows gRPC. A reason is a member of the use case's own `Reason(StrEnum)`; metadata are the events a caller needs
to act on (ids, limits, times), never personal data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class Refusal(Exception):
    """Base of the family.

    `code` names the class wherever a refusal is stored or sent; it stays when the class is renamed.
    `reason` names the rule that refused, `message` tells a person what to do next, `metadata` carries the events.
    `retryable` is true if the same call may succeed later without any other change by the caller.
    """

    code: ClassVar[str]
    retryable = False

    def __init__(self, reason: StrEnum | str, message: str = "", /, *, retry_after: timedelta | None = None, **metadata: object) -> None:
        self.reason = str(reason)
        self.message = message or self.reason.lower().replace("_", " ")
        self.retry_after = retry_after
        self.metadata = {name: str(value) for name, value in metadata.items()}
        super().__init__(f"{self.reason}: {self.message}")


class Invalid(Refusal):
    """The request itself is wrong: it will never succeed as it is. `field` in the metadata is the path of the part: `lines[0].price`."""

    code = "INVALID"

    def under(self, field: str) -> "Invalid":
        """Returns the refusal with `field` before its path: `price` becomes `product.price`."""
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

    code = "NOT_FOUND"


class Denied(Refusal):
    """The caller may not do this."""

    code = "DENIED"


class Conflict(Refusal):
    """The state does not allow this now; the reason names the state."""

    code = "CONFLICT"


class Exhausted(Refusal):
    """A budget, a stock, a quota or a queue has nothing left."""

    code = "EXHAUSTED"


class Unavailable(Refusal):
    """A dependency does not answer; the same call may be made again."""

    code = "UNAVAILABLE"
    retryable = True


class Overloaded(Exhausted):
    """A bounded queue is full: the work was not begun and the same call may be made again."""

    code = "OVERLOADED"
    retryable = True


FAMILY: tuple[type[Refusal], ...] = (Invalid, NotFound, Denied, Conflict, Exhausted, Unavailable, Overloaded)
BY_CODE: Mapping[str, type[Refusal]] = {kind.code: kind for kind in FAMILY}


def restore(code: str, reason: str, message: str, metadata: Mapping[str, str]) -> Refusal:
    """Builds the refusal that was stored or sent as these values. KeyError for an unknown code."""
    refusal = BY_CODE[code](reason, message)
    refusal.metadata = dict(metadata)
    return refusal
