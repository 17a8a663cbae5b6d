"""Context of a resolver: what fields of the graph need of the operation they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message
from strawberry.dataloader import DataLoader

from gateway.auth.sessions import Session

if TYPE_CHECKING:
    from gateway.schema.references import Batch, Bound


class ResolverContext(Protocol):
    """`gateway.execution.context.Context` implements it; `root` is the source of the operation's root fields."""

    session: Session
    root: Any

    async def call(self, request: Message) -> Any:
        """Returns the response of the rpc that `request` belongs to."""

    def loader(self, batch: Batch, bound: Bound = b"") -> DataLoader[str, Any]:
        """Returns the loader of a batch; keys requested in one turn of the event loop share one call."""
