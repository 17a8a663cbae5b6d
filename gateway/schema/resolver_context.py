"""Resolver context: what the fields of the graph need from the operation that selects them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message
from strawberry.dataloader import DataLoader

from gateway.auth.sessions import Session

if TYPE_CHECKING:
    from gateway.schema.batch_loader import BatchLoader, BatchParameters


class ResolverContext(Protocol):
    """`gateway.execution.context.Context` implements it; `root` is the source of the operation's root fields."""

    session: Session
    root: Any

    async def call(self, request: Message) -> Any:
        """Returns the response of the rpc that `request` belongs to."""

    def loader(self, batch: BatchLoader, parameters: BatchParameters = b"") -> DataLoader[str, Any]:
        """Returns the data loader of a batch rpc; keys requested in one turn of the event loop share one call."""
