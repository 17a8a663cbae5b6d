"""Every word is kept in `consent_changes`; `consents` has the newest one per consumer, brand and purpose.

`consented_brands` says for which brands a consumer has words, so that those who add some at once meet in one row and the bound is exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne, UpdateOne

from quanyu.common.v1.page_pb2 import PageInfo
from quanyu.member.v1 import consent_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import Refusal
from services.kit.mongo import pagination
from services.kit.mongo.client import Document, Session
from services.kit.mongo.codec import as_documents, as_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.consent import rules
from services.member.consent.enums import Purpose
from services.member.consent.rules import Addressed, Consent

STANDING_ORDER = [("brand_id", 1), ("purpose", 1)]


class ConsentRepository:
    """What consumers allow brands."""

    def __init__(self, runtime: Runtime) -> None:
        self.standing = self._table(runtime, "consents", [("consumer_id", ASCENDING), ("brand_id", ASCENDING), ("purpose", ASCENDING)])
        self.changes = self._table(runtime, "consent_changes", [("consumer_id", ASCENDING), ("at", DESCENDING), ("_id", ASCENDING)])
        self.addressed = ScopedCollection(
            runtime.database, "consented_brands", noun="CONSENTED_BRANDS", struct=Addressed, scopes={ScopeKind.CONSUMER: "_id"}
        )

    @staticmethod
    def _table(runtime: Runtime, name: str, index: Sequence[tuple[str, int]]) -> ScopedCollection[Consent]:
        return ScopedCollection(
            runtime.database,
            name,
            noun="CONSENT",
            struct=Consent,
            message=consent_pb2.Consent,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_id"},
            indexes=[IndexModel(index)],
            shard_key="consumer_id",
        )

    async def say(self, uow: UnitOfWork, words: Sequence[Consent]) -> dict[str, Refusal]:
        """Keeps words and lets the newest ones stand whatever their order. The refusals of consumers of whom nothing was kept, by id."""
        refused = await self._address(uow, words)
        words = [word for word in words if word.consumer_id not in refused]
        if not words:
            return refused
        places = {rules.standing_id(word) for word in words}
        rows = self.standing.collection.find({"_id": {"$in": sorted(places)}}, session=uow.session)
        earlier = {row["_id"]: as_struct(row, Consent) async for row in rows}
        stand = {place: replace(word, id=place) for place, word in rules.by_place([*earlier.values(), *words]).items()}
        changed = [word for word in stand.values() if word != earlier.get(word.id)]
        if new := as_documents([word for word in changed if word.id not in earlier]):
            await self.standing.collection.insert_many(new, ordered=False, session=uow.session)
        again = as_documents([word for word in changed if word.id in earlier])
        if replaced := [ReplaceOne({"_id": document["_id"]}, document) for document in again]:
            await self.standing.collection.bulk_write(replaced, ordered=False, session=uow.session)
        await self.changes.collection.insert_many(as_documents(words), ordered=False, session=uow.session)
        return refused

    async def _address(self, uow: UnitOfWork, words: Sequence[Consent]) -> dict[str, Refusal]:
        """Notes for which brands these words are; the refusals of consumers for whom those would be too many."""
        asked: dict[str, set[str]] = defaultdict(set)
        for word in words:
            asked[word.consumer_id].add(word.brand_id)
        rows = self.addressed.collection.find({"_id": {"$in": sorted(asked)}}, session=uow.session)
        earlier = {row["_id"]: as_struct(row, Addressed) async for row in rows}
        refused: dict[str, Refusal] = {}
        writes = []
        for consumer_id, brand_ids in asked.items():
            before = earlier.get(consumer_id, Addressed(consumer_id))
            try:
                after = rules.address(before, brand_ids)
            except Refusal as refusal:
                refused[consumer_id] = refusal
                continue
            if after != before:
                writes.append(UpdateOne({"_id": consumer_id}, {"$set": {"brand_ids": sorted(after.brand_ids)}}, upsert=True))
        if writes:
            await self.addressed.collection.bulk_write(writes, ordered=False, session=uow.session)
        return refused

    async def granted(self, consumer_ids: Iterable[str], brand_ids: Sequence[str], purpose: Purpose, session: Session = None) -> list[str]:
        """Those of the brands whose newest word from any of these consumers (one person's) is yes."""
        query: dict[str, Any] = {"consumer_id": {"$in": sorted(consumer_ids)}, "brand_id": {"$in": sorted(set(brand_ids))}}
        rows = self.standing.collection.find(query | {"purpose": purpose}, session=session)
        return rules.granted([as_struct(row, Consent) async for row in rows], brand_ids, purpose)

    async def stand(
        self, queries: Mapping[str, Document], members: Mapping[str, Sequence[str]], first: int
    ) -> dict[str, tuple[list[Consent], PageInfo]]:
        """For each key the first of what stands for one person (`members` are its ids), by brand and purpose, of the words that a query
        finds; where that is nothing there is no entry."""
        branches: list[list[Document]] = [
            [
                {"$match": query},
                {"$sort": dict(STANDING_ORDER)},
                {"$limit": (first + 1) * len(members[key])},  # in each place there may be a word of each of the person's ids
                {"$project": {"word": "$$ROOT", "key": {"$literal": key}}},
            ]
            for key, query in queries.items()
        ]
        words: dict[str, list[Consent]] = defaultdict(list)
        async for row in await self.standing.database.aggregate_each(self.standing.name, branches):
            words[row["key"]].append(as_struct(row["word"], Consent))
        return {key: self._page(rules.newest(said), first) for key, said in words.items()}

    def _page(self, stands: Mapping[tuple[str, Purpose], Consent], first: int) -> tuple[list[Consent], PageInfo]:
        places = sorted(stands)
        end = pagination.cursor(self.standing.name, places[min(first, len(places)) - 1])
        return [stands[place] for place in places[:first]], PageInfo(end_cursor=end, has_next_page=len(places) > first)
