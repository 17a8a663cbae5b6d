"""Collections of consents: `consent_changes` keeps every change, `consents` the latest per consumer, brand and purpose.

`consented_brands` has the brands for which a consumer has consents. Concurrent changes for new brands conflict in that document, so that
the limit is exact.
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
from services.kit.mongo.codec import to_documents, to_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork
from services.member.consent import rules
from services.member.consent.enums import Purpose
from services.member.consent.rules import Consent, ConsentedBrands

BY_BRAND_AND_PURPOSE = [("brand_id", 1), ("purpose", 1)]
"""The order of a person's latest consents."""


class ConsentRepository:
    """The consents of consumers."""

    def __init__(self, runtime: Runtime) -> None:
        key = [("consumer_id", ASCENDING), ("brand_id", ASCENDING), ("purpose", ASCENDING)]
        self.consents = _build_collection(runtime, "consents", key)
        timeline = [("consumer_id", ASCENDING), ("at", DESCENDING), ("_id", ASCENDING)]
        self.changes = _build_collection(runtime, "consent_changes", timeline)
        self.consented_brands = ScopedCollection(
            runtime.database, "consented_brands", noun="CONSENTED_BRANDS", struct=ConsentedBrands, scopes={ScopeKind.CONSUMER: "_id"}
        )

    async def record(self, uow: UnitOfWork, changes: Sequence[Consent]) -> dict[str, Refusal]:
        """Records changes, whatever their order, and replaces the consents that they supersede.

        Returns refusals by consumer id; nothing is recorded for a refused consumer.
        """
        refusals = await self._record_brands(uow, changes)
        changes = [change for change in changes if change.consumer_id not in refusals]
        if not changes:
            return refusals
        ids = {rules.build_consent_id(change) for change in changes}
        cursor = self.consents.collection.find({"_id": {"$in": sorted(ids)}}, session=uow.session)
        earlier = {document["_id"]: to_struct(document, Consent) async for document in cursor}
        latest = {id: replace(change, id=id) for id, change in rules.select_latest_by_id([*earlier.values(), *changes]).items()}
        superseding = [consent for consent in latest.values() if consent != earlier.get(consent.id)]
        if new := to_documents([consent for consent in superseding if consent.id not in earlier]):
            await self.consents.collection.insert_many(new, ordered=False, session=uow.session)
        replacements = to_documents([consent for consent in superseding if consent.id in earlier])
        if operations := [ReplaceOne({"_id": document["_id"]}, document) for document in replacements]:
            await self.consents.collection.bulk_write(operations, ordered=False, session=uow.session)
        await self.changes.collection.insert_many(to_documents(changes), ordered=False, session=uow.session)
        return refusals

    async def _record_brands(self, uow: UnitOfWork, changes: Sequence[Consent]) -> dict[str, Refusal]:
        """Records the brands of these changes; returns the refusals of consumers who would exceed the limit, by consumer id."""
        brands: dict[str, set[str]] = defaultdict(set)
        for change in changes:
            brands[change.consumer_id].add(change.brand_id)
        cursor = self.consented_brands.collection.find({"_id": {"$in": sorted(brands)}}, session=uow.session)
        earlier = {document["_id"]: to_struct(document, ConsentedBrands) async for document in cursor}
        refusals: dict[str, Refusal] = {}
        operations = []
        for consumer_id, brand_ids in brands.items():
            before = earlier.get(consumer_id, ConsentedBrands(consumer_id))
            try:
                after = rules.add_brands(before, brand_ids)
            except Refusal as refusal:
                refusals[consumer_id] = refusal
                continue
            if after != before:
                operations.append(UpdateOne({"_id": consumer_id}, {"$set": {"brand_ids": sorted(after.brand_ids)}}, upsert=True))
        if operations:
            await self.consented_brands.collection.bulk_write(operations, ordered=False, session=uow.session)
        return refusals

    async def find_granted(
        self, consumer_ids: Iterable[str], brand_ids: Sequence[str], purpose: Purpose, session: Session = None
    ) -> list[str]:
        """Returns those of the brands to which the person with these consumer ids grants `purpose`."""
        query: dict[str, Any] = {"consumer_id": {"$in": sorted(consumer_ids)}, "brand_id": {"$in": sorted(set(brand_ids))}}
        cursor = self.consents.collection.find(query | {"purpose": purpose}, session=session)
        return rules.filter_granted([to_struct(document, Consent) async for document in cursor], brand_ids, purpose)

    async def list_latest(
        self, queries: Mapping[str, Document], members: Mapping[str, Sequence[str]], first: int
    ) -> dict[str, tuple[list[Consent], PageInfo]]:
        """Returns the first page of the latest consents of each person, by brand and purpose, among those that the person's query finds.

        `members` has the consumer ids of each person, by the key of the query. A person without consents has no entry.
        """
        branches: list[list[Document]] = [
            [
                {"$match": query},
                {"$sort": dict(BY_BRAND_AND_PURPOSE)},
                {"$limit": (first + 1) * len(members[key])},  # each consumer id of the person may have a consent for the brand and purpose
                {"$project": {"consent": "$$ROOT", "key": {"$literal": key}}},
            ]
            for key, query in queries.items()
        ]
        found: dict[str, list[Consent]] = defaultdict(list)
        async for document in await self.consents.database.aggregate_union(self.consents.name, branches):
            found[document["key"]].append(to_struct(document["consent"], Consent))
        return {key: self._build_page(rules.select_latest(consents), first) for key, consents in found.items()}

    def _build_page(self, latest: Mapping[tuple[str, Purpose], Consent], first: int) -> tuple[list[Consent], PageInfo]:
        keys = sorted(latest)
        end = pagination.encode_cursor(self.consents.name, keys[min(first, len(keys)) - 1])
        return [latest[key] for key in keys[:first]], PageInfo(end_cursor=end, has_next_page=len(keys) > first)


def _build_collection(runtime: Runtime, name: str, index: Sequence[tuple[str, int]]) -> ScopedCollection[Consent]:
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
