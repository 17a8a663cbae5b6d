"""Base class of the events that rules return; the outbox converts them to messages."""

from typing import ClassVar

from msgspec import Struct


class Event(Struct, frozen=True):
    """Base class of all events. The fields are those of the message of its kind; `Outbox.prepare` checks this when a service starts."""

    kind: ClassVar[str]
    """The name of the field in `quanyu.events.v1.Event`, like `order_paid`."""
