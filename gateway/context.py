"""What one operation carries: who asks, the services, and what was fetched already."""

import time
from typing import Any

from google.protobuf.message import Message
from strawberry.dataloader import DataLoader

from gateway.auth.sessions import Session
from gateway.clients import Clients
from gateway.edges import Batch, Bound
from services.kit.errors import Refusal


class Context:
    """The context of one operation, or of one event of a subscription; its caches live and end with it. `root`: what its first fields are
    read from."""

    __slots__ = ("calls", "clients", "cold_seconds", "loaders", "root", "session", "under_way")

    def __init__(self, session: Session, clients: Clients, event: Any = None) -> None:
        self.session, self.clients = session, clients
        self.root = session if event is None else event
        self.loaders: dict[tuple[Batch, Bound], DataLoader[str, Any]] = {}
        self.calls = 0
        self.cold_seconds = 0.0
        """What it took to compile for it."""
        self.under_way: dict[str, int] = {}
        """The calls that have not come back, by service."""

    async def call(self, request: Message) -> Any:
        """The answer of the rpc that `request` belongs to. `Overloaded` when too many operations wait for its service already."""
        self.calls += 1
        clients, under_way = self.clients, self.under_way
        service = clients.rpc(type(request))[0]
        before = under_way.get(service, 0)
        if not before:
            clients.wait(service)
        under_way[service] = before + 1
        try:
            answer = await clients.call(request)
            clients.heard_at[service] = time.monotonic()
            return answer
        except Refusal as refusal:
            clients.heard(service, refusal)
            raise
        finally:
            under_way[service] -= 1
            if not under_way[service]:
                clients.waiting[service] -= 1

    def loader(self, batch: Batch, bound: Bound = b"") -> DataLoader[str, Any]:
        """The loader of a batch; keys asked for since the last turn of the event loop go into one call."""
        loader = self.loaders.get((batch, bound))
        if loader is None:
            loader = self.loaders[batch, bound] = batch.loader(self, bound)
        return loader
