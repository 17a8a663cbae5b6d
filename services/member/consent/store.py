"""Every word is kept in `consent_changes`; `consents` has the newest one per consumer, brand and purpose."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne

from quanyu.member.v1 import consent_pb2
from services.kit.access import Kind
from services.kit.documents import as_documents, as_struct
from services.kit.house import House
from services.kit.mongo import Document, Session
from services.kit.table import FIND_MAX, Table
from services.kit.unit import Unit
from services.member.consent import rules
from services.member.consent.rules import Consent, Purpose


class Consents:
    """What consumers allow brands."""

    def __init__(self, house: House) -> None:
        self.standing = self._table(house, "consents", [("consumer_id", ASCENDING), ("brand_id", ASCENDING), ("purpose", ASCENDING)])
        self.changes = self._table(house, "consent_changes", [("consumer_id", ASCENDING), ("at", DESCENDING), ("_id", ASCENDING)])

    @staticmethod
    def _table(house: House, name: str, index: Sequence[tuple[str, int]]) -> Table[Consent]:
        return Table(
            house.database,
            name,
            struct=Consent,
            message=consent_pb2.Consent,
            scopes={Kind.CONSUMER: "consumer_id", Kind.BRAND: "brand_id"},
            indexes=[IndexModel(index)],
            shard_key="consumer_id",
        )

    async def say(self, unit: Unit, words: Sequence[Consent]) -> list[Consent]:
        """Keeps words, lets the newest ones stand whatever their order, and answers what stands where something was said."""
        if not words:
            return []
        places = {rules.standing_id(word) for word in words}
        rows = self.standing.collection.find({"_id": {"$in": sorted(places)}}, session=unit.session)
        earlier = {row["_id"]: as_struct(row, Consent) async for row in rows}
        stand = {place: replace(word, id=place) for place, word in rules.by_place([*earlier.values(), *words]).items()}
        changed = [word for word in stand.values() if word != earlier.get(word.id)]
        if new := as_documents([word for word in changed if word.id not in earlier]):
            await self.standing.collection.insert_many(new, ordered=False, session=unit.session)
        again = as_documents([word for word in changed if word.id in earlier])
        if replaced := [ReplaceOne({"_id": document["_id"]}, document) for document in again]:
            await self.standing.collection.bulk_write(replaced, ordered=False, session=unit.session)
        await self.changes.collection.insert_many(as_documents(words), ordered=False, session=unit.session)
        return list(stand.values())

    async def granted(self, consumer_ids: Iterable[str], brand_ids: Sequence[str], purpose: Purpose, session: Session = None) -> list[str]:
        """Those of the brands whose newest word from any of these consumers (one person's) is yes."""
        query: dict[str, Any] = {"consumer_id": {"$in": sorted(consumer_ids)}, "brand_id": {"$in": sorted(set(brand_ids))}}
        rows = self.standing.collection.find(query | {"purpose": purpose}, session=session)
        return rules.granted([as_struct(row, Consent) async for row in rows], brand_ids, purpose)

    async def stand(self, table: Table[Consent], query: Document) -> list[Consent]:
        """What stands for one person, by brand and purpose. There are at most as many as brands, purposes and linked consumers allow."""
        rows = table.collection.find(table.within(query)).limit(FIND_MAX)
        stands = rules.newest([as_struct(row, Consent) async for row in rows])
        return [stands[place] for place in sorted(stands)]
