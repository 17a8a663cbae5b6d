"""Refusals: the errors that a caller can act on. Rules raise them, `rpc/status.py` maps them to gRPC, the gateway to GraphQL types.

This module does not depend on gRPC. A reason is a member of the use case's own `Reason(StrEnum)`. Metadata are the values that a caller
needs to act (ids, limits, times), never personal data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class Refusal(Exception):
    """Base class of all refusals.

    - `code` names the class in storage and in responses; it does not change when the class is renamed.
    - `reason` names the rule that refused, `message` says what is wrong and what to do, `metadata` has the values.
    - `retryable` is true if the same call may succeed later without a change by the caller.
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
    """The request is wrong and cannot succeed unchanged. `field` in the metadata is the path of the wrong value: `lines[0].price`."""

    code = "INVALID"

    def with_field_prefix(self, field: str) -> "Invalid":
        """Returns the refusal with `field` before its path: `price` becomes `product.price`."""
        inner = self.metadata.get("field")
        self.metadata["field"] = f"{field}.{inner}" if inner else field
        return self


@contextmanager
def field_prefix(field: str) -> Iterator[None]:
    """Prefixes the field of each `Invalid` that the block raises with `field`."""
    try:
        yield
    except Invalid as refusal:
        raise refusal.with_field_prefix(field) from None


class NotFound(Refusal):
    """It does not exist in the caller's scope."""

    code = "NOT_FOUND"


class Denied(Refusal):
    """The caller may not do this."""

    code = "DENIED"


class Conflict(Refusal):
    """The current state does not permit this; the reason names the state."""

    code = "CONFLICT"


class Exhausted(Refusal):
    """A budget, a stock, a quota or a queue is exhausted."""

    code = "EXHAUSTED"


class Unavailable(Refusal):
    """A dependency does not respond; the same call may succeed later."""

    code = "UNAVAILABLE"
    retryable = True


class Overloaded(Exhausted):
    """A bounded queue is full. Nothing was started, and the same call may succeed later."""

    code = "OVERLOADED"
    retryable = True


FAMILY: tuple[type[Refusal], ...] = (Invalid, NotFound, Denied, Conflict, Exhausted, Unavailable, Overloaded)
BY_CODE: Mapping[str, type[Refusal]] = {kind.code: kind for kind in FAMILY}


def restore(code: str, reason: str, message: str, metadata: Mapping[str, str]) -> Refusal:
    """Builds the refusal that was stored or sent as these values. KeyError for an unknown code."""
    refusal = BY_CODE[code](reason, message)
    refusal.metadata = dict(metadata)
    return refusal
