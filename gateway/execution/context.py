"""Context of one operation: its session, the clients of the services, and its batch loaders."""

from typing import Any

from google.protobuf.message import Message
from strawberry.dataloader import DataLoader

from gateway.auth.sessions import Session
from gateway.rpc.bulkhead import Slot
from gateway.rpc.clients import Clients
from gateway.schema.batch_loader import BatchLoader, BatchParameters


class Context:
    """The context of one operation, or of one event of a subscription; its caches end with it. `root` is the source of its root fields."""

    __slots__ = ("calls", "clients", "compile_seconds", "loaders", "root", "session", "slots")

    def __init__(self, session: Session, clients: Clients, event: Any = None) -> None:
        self.session, self.clients = session, clients
        self.root = session if event is None else event
        self.loaders: dict[tuple[BatchLoader, BatchParameters], DataLoader[str, Any]] = {}
        self.calls = 0
        """The number of rpcs that it has called."""
        self.compile_seconds = 0.0
        """The time that was spent on compiling its plan; 0 if the plan was cached."""
        self.slots: dict[str, Slot] = {}
        """Its slot in the bulkhead of each service that it has called."""

    async def call(self, request: Message) -> Any:
        """Returns the response of the rpc that `request` belongs to. Raises `Overloaded` if the bulkhead of its service is full."""
        self.calls += 1
        service = self.clients.find_callable(type(request))[0]
        slot = self.slots.get(service)
        if slot is None:
            slot = self.slots[service] = Slot(self.clients.bulkheads[service])
        with slot:
            return await self.clients.call(request)

    def loader(self, batch: BatchLoader, parameters: BatchParameters = b"") -> DataLoader[str, Any]:
        """Returns the loader of a batch. Keys that are requested in one turn of the event loop share one call."""
        loader = self.loaders.get((batch, parameters))
        if loader is None:
            loader = self.loaders[batch, parameters] = batch.create_data_loader(self, parameters)
        return loader
