"""`store_view`: which brand a store belongs to and which clock hangs there. Fed by StoreChanged, never written otherwise."""

from msgspec import Struct

from quanyu.events.v1 import events_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import Denied
from services.kit.mongo.client import Session
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import caller
from services.kit.transactions.unit_of_work import UnitOfWork


class Store(Struct, frozen=True):
    """A store as organization told of it last."""

    id: str
    brand_id: str
    zone: str = ""
    version: int = 1


class StoreProjection:
    """What member knows of stores."""

    def __init__(self, runtime: Runtime) -> None:
        self.scopes = runtime.scopes
        self.table = ScopedCollection(
            runtime.database, "store_view", noun="STORE", struct=Store, scopes={ScopeKind.STORE: "_id", ScopeKind.BRAND: "brand_id"}
        )

    async def changed(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Keeps what a StoreChanged says, here and in the scopes."""
        await self.scopes.store_changed(uow, event)
        told = event.store_changed
        row = {"brand_id": told.brand_id, "zone": told.zone}
        await self.table.collection.update_one({"_id": told.store_id}, {"$set": row}, upsert=True, session=uow.session)

    async def find(self, id: str, session: Session = None) -> Store | None:
        """A store whatever the caller reaches; None when it is unknown."""
        row = await self.table.collection.find_one({"_id": id}, session=session)
        return Store(row["_id"], row["brand_id"], row["zone"]) if row else None

    async def require_brand(self, brand_id: str, store_id: str, session: Session = None) -> None:
        """`Denied` (BRAND_NOT_YOURS) unless the caller acts for the brand, or for this store of it."""
        who = caller()
        if who.reaches(ScopeKind.BRAND, brand_id):
            return
        store = await self.find(store_id, session) if store_id and who.reaches(ScopeKind.STORE, store_id) else None
        if store is None or store.brand_id != brand_id:
            raise Denied("BRAND_NOT_YOURS", "you do not act for this brand; give your store if it is one of it")
