"""ConsentService. Word ids are born in the order of recording."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from quanyu.common.v1.page_pb2 import PageInfo
from quanyu.member.v1 import consent_pb2, consent_pb2_grpc, identity_pb2
from services.kit import ids, pages
from services.kit.access import Kind
from services.kit.documents import as_document, as_struct, fields, shaped
from services.kit.errors import Invalid, Refusal
from services.kit.house import House
from services.kit.mongo import Document, Shaped
from services.kit.table import BATCH_MAX, Table
from services.kit.unit import Unit, write
from services.member.consent.rules import Consent, Purpose
from services.member.consent.store import Consents
from services.member.identity.store import Consumers
from services.member.stores import Stores

STANDING_ORDER = [("brand_id", 1), ("purpose", 1)]


class Check(Struct, frozen=True):
    """What CheckConsents asks, its purpose checked."""

    purpose: Purpose


class ConsentService(consent_pb2_grpc.ConsentServiceServicer):
    def __init__(self, house: House, consents: Consents, consumers: Consumers, stores: Stores) -> None:
        self.units, self.consents, self.consumers, self.stores = house.units, consents, consumers, stores

    @write
    async def SetConsent(self, request: consent_pb2.SetConsentRequest, unit: Unit) -> consent_pb2.SetConsentResponse:
        if not unit.caller.reaches(Kind.CONSUMER, request.consumer_id):
            await self.stores.require_brand(request.brand_id, request.store_id, unit.session)
        await self.consumers.known(request.consumer_id, request.brand_id, unit.session)
        word = _word(request, request.consumer_id, unit)
        for refusal in (await self.consents.say(unit, [word])).values():
            raise refusal
        return consent_pb2.SetConsentResponse(consent=_shaped(word))

    async def imported(self, unit: Unit, rows: Sequence[tuple[str, identity_pb2.ImportedConsumer]]) -> Mapping[str, Refusal]:
        """Keeps the consents of imported consumers, dated like these; what was said since stays newer. Refusals by consumer id."""
        words = []
        for consumer_id, row in rows:
            dated = fields(row).get("created_at", unit.at)
            words += [replace(_word(consent, consumer_id, unit), at=dated) for consent in row.consents]
        return await self.consents.say(unit, words)

    async def CheckConsents(self, request: consent_pb2.CheckConsentsRequest, context: Any) -> consent_pb2.CheckConsentsResponse:
        if len(request.brand_ids) > BATCH_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="brand_ids")
        purpose = as_struct(fields(request), Check).purpose
        people = await self.consumers.people([request.consumer_id])
        granted = await self.consents.granted(people.ids_of(request.consumer_id), list(request.brand_ids), purpose)
        return consent_pb2.CheckConsentsResponse(brand_ids=granted)

    async def ListConsents(self, request: consent_pb2.ListConsentsRequest, context: Any) -> consent_pb2.ListConsentsResponse:
        table, query = await self._words(self.consents.standing, request.consumer_id, request.brand_id)
        stand = await self.consents.stand(table, query)
        first, after = pages.size(request.page), request.page.after
        if after:
            brand_id, purpose = pages.values(table.name, STANDING_ORDER, after, kinds=(str, str))
            stand = [word for word in stand if (word.brand_id, word.purpose) > (brand_id, purpose)]
        shown = stand[:first]
        end = pages.cursor(table.name, [shown[-1].brand_id, shown[-1].purpose]) if shown else ""
        info = PageInfo(end_cursor=end, has_next_page=len(stand) > first)
        return consent_pb2.ListConsentsResponse(consents=[_shaped(word) for word in shown], page=info)

    async def ListConsentChanges(
        self, request: consent_pb2.ListConsentChangesRequest, context: Any
    ) -> consent_pb2.ListConsentChangesResponse:  # fmt: skip
        table, query = await self._words(self.consents.changes, request.consumer_id, request.brand_id)
        rows, info = await table.page(query, request.page, order=[("at", -1)])
        return consent_pb2.ListConsentChangesResponse(consents=rows, page=info)

    async def _words(self, table: Table[Consent], consumer_id: str, brand_id: str) -> tuple[Table[Consent], Document]:
        """How to read the person's words, said under any of the ids."""
        members = (await self.consumers.people([consumer_id])).ids_of(consumer_id)
        table, only = await self.consumers.readable(table, members)
        queries: list[Document] = [{"consumer_id": {"$in": members}}, {"brand_id": brand_id} if brand_id else {}, only]
        return table, {"$and": [query for query in queries if query]}


def _word(said: consent_pb2.SetConsentRequest | identity_pb2.ImportedConsent, consumer_id: str, unit: Unit) -> Consent:
    """What was said, as a word recorded now."""
    id = ids.new("cns")
    recorded = {"id": id, "word_id": id, "at": unit.at, "recorded_by": unit.caller.id, "consumer_id": consumer_id}
    return as_struct({"granted": False, **fields(said), **recorded}, Consent)


def _shaped(word: Consent) -> Shaped:
    return shaped(as_document(word), consent_pb2.Consent.DESCRIPTOR)
