"""Runtime: the shared mechanisms that a process gives to its use cases, built once."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from services.kit.clock import Clock, now
from services.kit.events.inbox import Handler
from services.kit.mongo.change_streams import ChangeStreamHub
from services.kit.mongo.client import Database
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.scopes import ScopeProjection
from services.kit.rpc.channel import Channels
from services.kit.rpc.server import Register
from services.kit.security.encryption import FieldEncryption
from services.kit.security.principals import Signer
from services.kit.settings import Settings
from services.kit.transactions.group_commit import GroupCommit
from services.kit.transactions.outbox import Outbox
from services.kit.transactions.unit_of_work import TransactionRunner

SERVICES = ("member", "commerce", "district", "organization")


class ServiceDefinition(Struct, frozen=True):
    """The parts of a service: its servicers, collections, event handlers by kind, and background loops."""

    servicers: Sequence[Register]
    collections: Sequence[ScopedCollection[Any]]
    events: Mapping[str, Handler]
    background: Sequence[Callable[[], Awaitable[None]]] = ()


class Runtime(Struct, frozen=True):
    """The mechanisms of one service's process."""

    name: str
    settings: Settings
    database: Database
    outbox: Outbox
    change_streams: ChangeStreamHub
    transactions: TransactionRunner
    group_commit: GroupCommit
    encryption: FieldEncryption
    scopes: ScopeProjection
    channels: Channels
    signer: Signer
    clock: Clock = now

    @classmethod
    def build(cls, name: str, settings: Settings) -> "Runtime":
        """Builds the runtime of service `name`, without reading or writing anything."""
        database = Database(settings, f"{settings.database_prefix}_{name}")
        outbox = Outbox(database, name)
        signer = Signer(name, settings.signing_key)
        addresses = {peer: getattr(settings, f"{peer}_address") for peer in SERVICES}
        return cls(
            name=name,
            settings=settings,
            database=database,
            outbox=outbox,
            change_streams=ChangeStreamHub(database),
            transactions=TransactionRunner(database, outbox, now),
            group_commit=GroupCommit(database, outbox, now),
            encryption=FieldEncryption.from_settings(settings),
            scopes=ScopeProjection(database),
            channels=Channels(name, signer, addresses, settings.deadline_seconds),
            signer=signer,
        )

    async def close(self) -> None:
        """Completes the queued commands of the group commit and closes all connections."""
        await self.group_commit.close()
        await self.channels.close()
        await self.database.close()
