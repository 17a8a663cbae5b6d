"""Scope projection `scope_view`: the brand and the org units above each store, from events. With it each service checks scopes itself."""

import time
from collections.abc import Iterable
from typing import Protocol

from cachetools import TTLCache
from msgspec import Struct
from pymongo import ASCENDING, IndexModel

from quanyu.events.v1 import events_pb2
from services.kit.errors import Exhausted
from services.kit.mongo.client import Database, Session, ensure_indexes

COLLECTION = "scope_view"
CACHE_SECONDS = 15.0
"""A cached scope is used this long; a change that another replica received is visible after that time."""
CACHE_MAX = 2_000
"""A process caches at most this many scopes."""
STORES_MAX = 10_000
"""A scope covers at most this many stores."""


class SessionHolder(Protocol):
    """The part of a unit of work that the projection needs: the session of its transaction."""

    session: Session


class StoreSubtree(Struct, frozen=True):
    """The stores below a brand or org unit, and the org units between."""

    stores: frozenset[str]
    units: frozenset[str]


class ScopeProjection:
    """Finds the stores and org units below a brand or org unit; results are at most CACHE_SECONDS old."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.cache: TTLCache[tuple[str, str], StoreSubtree] = TTLCache(CACHE_MAX, CACHE_SECONDS, timer=time.monotonic)

    async def prepare(self) -> None:
        """Creates the indexes for both directions."""
        await ensure_indexes(self.database[COLLECTION], IndexModel([("brand_id", ASCENDING)]), IndexModel([("org_unit_ids", ASCENDING)]))

    async def find_subtree(self, field: str, id: str) -> StoreSubtree:
        """Returns the stores and org units below one brand (`brand_id`) or org unit (`org_unit_ids`).

        `Exhausted` for more than STORES_MAX stores.
        """
        try:
            return self.cache[field, id]
        except KeyError:
            subtree = self.cache[field, id] = await self._load(field, id)
            return subtree

    async def _load(self, field: str, id: str) -> StoreSubtree:
        documents = await self.database[COLLECTION].find({field: id}).limit(STORES_MAX + 1).to_list(STORES_MAX + 1)
        if len(documents) > STORES_MAX:
            raise Exhausted("SCOPE_TOO_WIDE", f"A scope covers at most {STORES_MAX} stores. Select a part of it.")
        units: set[str] = set()
        for document in documents:
            path: list[str] = document["org_unit_ids"]
            units.update(path[path.index(id) :] if field == "org_unit_ids" else path)
        return StoreSubtree(frozenset(document["_id"] for document in documents), frozenset(units))

    async def save(self, session: Session, changed: events_pb2.StoreChanged) -> None:
        """Writes a StoreChanged. A permanently closed store stays in the scope of its owner, as its history does."""
        await self.database[COLLECTION].update_one(
            {"_id": changed.store_id},
            {"$set": {"brand_id": changed.brand_id, "org_unit_ids": list(changed.org_unit_ids)}},
            upsert=True,
            session=session,
        )

    def evict(self, ids: Iterable[tuple[str, str]] = ()) -> None:
        """Removes these scopes, or all, from the cache, so that organization sees its own writes at once."""
        for key in list(ids) or list(self.cache):
            self.cache.pop(key, None)

    async def handle_store_changed(self, uow: SessionHolder, event: events_pb2.Event) -> None:
        """Handles StoreChanged; each service has this method in its table of event handlers."""
        await self.save(uow.session, event.store_changed)
        self.evict()
