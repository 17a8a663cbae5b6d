"""A fact as rules state it; the outbox turns it into its message."""

from typing import ClassVar

from msgspec import Struct


class Fact(Struct, frozen=True):
    """Base of all facts. The fields are those of the fact's message; `Outbox.prepare` checks this at the start of a service."""

    kind: ClassVar[str]
    """The field of `quanyu.facts.v1.Fact` that carries it, like `order_paid`."""
