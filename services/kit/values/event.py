"""An event as rules state it; the outbox turns it into its message."""

from typing import ClassVar

from msgspec import Struct


class Event(Struct, frozen=True):
    """Base of all events. The fields are those of the event's message; `Outbox.prepare` checks this at the start of a service."""

    kind: ClassVar[str]
    """The field of `quanyu.events.v1.Event` that carries it, like `order_paid`."""
