"""Scope projection `scope_view`: the brand and the org units above each store, fed by events, so that each service checks scopes itself."""

import time
from collections.abc import Iterable
from typing import Protocol

from cachetools import TTLCache
from msgspec import Struct
from pymongo import ASCENDING, IndexModel

from quanyu.events.v1 import events_pb2
from services.kit.errors import Exhausted
from services.kit.mongo.client import Database, Session, ensure

COLLECTION = "scope_view"
CACHE_SECONDS = 15.0
"""A cached scope is used this long; a change that another replica received is visible after that time."""
CACHE_MAX = 2_000
STORES_MAX = 10_000


class InTransaction(Protocol):
    """A unit of work, as far as the projection needs it: the session of its transaction."""

    session: Session


class Reached(Struct, frozen=True):
    """The stores below a brand or unit, and the units between."""

    stores: frozenset[str]
    units: frozenset[str]


class ScopeProjection:
    """Finds the stores and units below a brand or unit; results are at most CACHE_SECONDS old."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.cache: TTLCache[tuple[str, str], Reached] = TTLCache(CACHE_MAX, CACHE_SECONDS, timer=time.monotonic)

    async def prepare(self) -> None:
        """Creates the indexes for both directions."""
        await ensure(self.database[COLLECTION], IndexModel([("brand_id", ASCENDING)]), IndexModel([("org_unit_ids", ASCENDING)]))

    async def below(self, field: str, id: str) -> Reached:
        """Returns the stores and units below one brand (`brand_id`) or unit (`org_unit_ids`); raises `Exhausted` for too many stores."""
        try:
            return self.cache[field, id]
        except KeyError:
            reached = self.cache[field, id] = await self._load(field, id)
            return reached

    async def _load(self, field: str, id: str) -> Reached:
        rows = await self.database[COLLECTION].find({field: id}).limit(STORES_MAX + 1).to_list(STORES_MAX + 1)
        if len(rows) > STORES_MAX:
            raise Exhausted("SCOPE_TOO_WIDE", f"A scope covers at most {STORES_MAX} stores. Select a part of it.")
        units: set[str] = set()
        for row in rows:
            path: list[str] = row["org_unit_ids"]
            units.update(path[path.index(id) :] if field == "org_unit_ids" else path)
        return Reached(frozenset(row["_id"] for row in rows), frozenset(units))

    async def keep(self, session: Session, changed: events_pb2.StoreChanged) -> None:
        """Writes a StoreChanged; a store that is closed for good stays in its owner's scope, as its history does."""
        await self.database[COLLECTION].update_one(
            {"_id": changed.store_id},
            {"$set": {"brand_id": changed.brand_id, "org_unit_ids": list(changed.org_unit_ids)}},
            upsert=True,
            session=session,
        )

    def forget(self, ids: Iterable[tuple[str, str]] = ()) -> None:
        """Drops these scopes from the cache, or all of them, so that organization sees its own writes at once."""
        for key in list(ids) or list(self.cache):
            self.cache.pop(key, None)

    async def store_changed(self, uow: InTransaction, event: events_pb2.Event) -> None:
        """Handles StoreChanged: each service puts this into its table of event handlers (and may wrap it)."""
        await self.keep(uow.session, event.store_changed)
        self.forget()
