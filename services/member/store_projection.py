"""Projection `store_view`: the brand and the time zone of each store, written by StoreChanged events only."""

from msgspec import Struct

from quanyu.events.v1 import events_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import Denied
from services.kit.mongo.client import Session
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork


class Store(Struct, frozen=True):
    """A store as of its latest StoreChanged event."""

    id: str
    brand_id: str
    zone: str = ""
    version: int = 1


class StoreProjection:
    """The stores of all brands."""

    def __init__(self, runtime: Runtime) -> None:
        self.scopes = runtime.scopes
        self.stores = ScopedCollection(
            runtime.database, "store_view", noun="STORE", struct=Store, scopes={ScopeKind.STORE: "_id", ScopeKind.BRAND: "brand_id"}
        )

    async def apply_store_changed(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        """Saves the state of a StoreChanged event, here and in the scope projection."""
        await self.scopes.handle_store_changed(uow, event)
        store = event.store_changed
        values = {"brand_id": store.brand_id, "zone": store.zone}
        await self.stores.collection.update_one({"_id": store.store_id}, {"$set": values}, upsert=True, session=uow.session)

    async def find(self, id: str, session: Session = None) -> Store | None:
        """Returns a store regardless of the caller's scope; None if it is unknown."""
        document = await self.stores.collection.find_one({"_id": id}, session=session)
        return Store(document["_id"], document["brand_id"], document["zone"]) if document else None

    async def require_brand(self, brand_id: str, store_id: str, session: Session = None) -> None:
        """Raises `Denied` (BRAND_NOT_YOURS) unless the caller acts for the brand or for this store of the brand."""
        caller = current_caller()
        if caller.can_reach(ScopeKind.BRAND, brand_id):
            return
        is_own_store = bool(store_id) and caller.can_reach(ScopeKind.STORE, store_id)
        store = await self.find(store_id, session) if is_own_store else None
        if store is None or store.brand_id != brand_id:
            raise Denied("BRAND_NOT_YOURS", "You do not act for this brand. Give `storeId` if you act for one of its stores.")
