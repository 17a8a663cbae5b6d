"""The house: what a process hands to its use cases, built once."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from quanyu.facts.v1 import facts_pb2
from services.kit.clock import Clock, now
from services.kit.mongo.change_streams import Watch
from services.kit.mongo.client import Database
from services.kit.mongo.scoped_collection import Table
from services.kit.projections.scopes import Scopes
from services.kit.rpc.channel import Channels
from services.kit.rpc.server import Register
from services.kit.security.encryption import Secrets
from services.kit.security.principals import Signer
from services.kit.settings import Settings
from services.kit.transactions.group_commit import Lane
from services.kit.transactions.outbox import Outbox
from services.kit.transactions.unit_of_work import Unit, Units

SERVICES = ("member", "commerce", "district", "organization")
Handler = Callable[[Unit, facts_pb2.Fact], Awaitable[None]]
"""The effect of one kind of fact; it writes through `unit.session` only."""


class Wiring(Struct, frozen=True):
    """What a scenario puts into the house: servicers, tables, its table of facts, and loops that run while the process does."""

    servicers: Sequence[Register]
    tables: Sequence[Table[Any]]
    facts: Mapping[str, Handler]
    background: Sequence[Callable[[], Awaitable[None]]] = ()


class House(Struct, frozen=True):
    """The mechanisms of one service's process."""

    name: str
    settings: Settings
    database: Database
    outbox: Outbox
    watch: Watch
    units: Units
    lane: Lane
    secrets: Secrets
    scopes: Scopes
    channels: Channels
    signer: Signer
    clock: Clock = now

    @classmethod
    def build(cls, name: str, settings: Settings) -> "House":
        """The house of service `name`. Nothing is read or written yet."""
        database = Database(settings, f"{settings.database_prefix}_{name}")
        outbox = Outbox(database, name)
        signer = Signer(name, settings.signing_key)
        addresses = {peer: getattr(settings, f"{peer}_address") for peer in SERVICES}
        return cls(
            name=name,
            settings=settings,
            database=database,
            outbox=outbox,
            watch=Watch(database),
            units=Units(database, outbox, now),
            lane=Lane(database, outbox, now),
            secrets=Secrets.of(settings),
            scopes=Scopes(database),
            channels=Channels(name, signer, addresses, settings.deadline_seconds),
            signer=signer,
        )

    async def close(self) -> None:
        """Ends what was opened; commands in the lane are carried out first."""
        await self.lane.close()
        await self.channels.close()
        await self.database.close()
