"""What one operation carries: who asks, the services, and what was fetched already."""

from typing import Any

from google.protobuf.message import Message
from strawberry.dataloader import DataLoader

from gateway.clients import Clients
from gateway.edges import Batch, Bound
from gateway.principal import Session


class Context:
    """The context of one operation, or of one event of a subscription; its caches live and end with it. `root`: what its first fields are
    read from."""

    __slots__ = ("calls", "clients", "loaders", "root", "session")

    def __init__(self, session: Session, clients: Clients, event: Any = None) -> None:
        self.session, self.clients = session, clients
        self.root = session if event is None else event
        self.loaders: dict[tuple[Batch, Bound], DataLoader[str, Any]] = {}
        self.calls = 0

    async def call(self, request: Message) -> Any:
        """The answer of the rpc that `request` belongs to."""
        self.calls += 1
        return await self.clients.call(request)

    def loader(self, batch: Batch, bound: Bound = ()) -> DataLoader[str, Any]:
        """The loader of a batch; keys asked for since the last turn of the event loop go into one call."""
        loader = self.loaders.get((batch, bound))
        if loader is None:
            loader = self.loaders[batch, bound] = batch.loader(self, bound)
        return loader
