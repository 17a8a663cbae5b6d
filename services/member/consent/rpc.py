"""ConsentService. Word ids are born in the order of recording."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from quanyu.member.v1 import consent_pb2, consent_pb2_grpc, identity_pb2
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid, Refusal
from services.kit.mongo import pagination
from services.kit.mongo.client import Document, Shaped
from services.kit.mongo.codec import as_document, as_struct, fields, shaped
from services.kit.mongo.scoped_collection import BATCH_MAX, ScopedCollection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.consent.enums import Purpose
from services.member.consent.repository import STANDING_ORDER, ConsentRepository
from services.member.consent.rules import Consent
from services.member.identity.repository import ConsumerRepository
from services.member.store_projection import StoreProjection


class Check(Struct, frozen=True):
    """What CheckConsents asks, its purpose checked."""

    purpose: Purpose


class ConsentServicer(consent_pb2_grpc.ConsentServiceServicer):
    def __init__(self, runtime: Runtime, consents: ConsentRepository, consumers: ConsumerRepository, stores: StoreProjection) -> None:
        self.transactions, self.consents, self.consumers, self.stores = runtime.transactions, consents, consumers, stores

    @transactional
    async def SetConsent(self, request: consent_pb2.SetConsentRequest, uow: UnitOfWork) -> consent_pb2.SetConsentResponse:
        if not uow.caller.reaches(ScopeKind.CONSUMER, request.consumer_id):
            await self.stores.require_brand(request.brand_id, request.store_id, uow.session)
        await self.consumers.known(request.consumer_id, request.brand_id, uow.session)
        word = _word(request, request.consumer_id, uow)
        for refusal in (await self.consents.say(uow, [word])).values():
            raise refusal
        return consent_pb2.SetConsentResponse(consent=_shaped(word))

    async def imported(self, uow: UnitOfWork, rows: Sequence[tuple[str, identity_pb2.ImportedConsumer]]) -> Mapping[str, Refusal]:
        """Keeps the consents of imported consumers, dated like these; what was said since stays newer. Refusals by consumer id."""
        words = []
        for consumer_id, row in rows:
            dated = fields(row).get("created_at", uow.at)
            words += [replace(_word(consent, consumer_id, uow), at=dated) for consent in row.consents]
        return await self.consents.say(uow, words)

    async def CheckConsents(self, request: consent_pb2.CheckConsentsRequest, context: Any) -> consent_pb2.CheckConsentsResponse:
        if len(request.brand_ids) > BATCH_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="brand_ids")
        purpose = as_struct(fields(request), Check).purpose
        people = await self.consumers.people([request.consumer_id])
        granted = await self.consents.granted(people.ids_of(request.consumer_id), list(request.brand_ids), purpose)
        return consent_pb2.CheckConsentsResponse(brand_ids=granted)

    async def ListConsents(self, request: consent_pb2.ListConsentsRequest, context: Any) -> consent_pb2.ListConsentsResponse:
        first, table, members = pagination.size(request.page), self.consents.standing, await self._members([request.consumer_id])
        queries = await self._words(table, members, request.brand_id)
        if request.page.after:
            last = pagination.values(table.name, STANDING_ORDER, request.page.after, kinds=(str, str))
            queries = {id: {"$and": [query, pagination.after(STANDING_ORDER, last)]} for id, query in queries.items()}
        stand, page = (await self.consents.stand(queries, members, first)).get(request.consumer_id, ([], PageInfo()))
        return consent_pb2.ListConsentsResponse(consents=[_shaped(word) for word in stand], page=page)

    async def BatchListConsents(
        self, request: consent_pb2.BatchListConsentsRequest, context: Any
    ) -> consent_pb2.BatchListConsentsResponse:  # fmt: skip
        name, consumer_ids = batch_lists.asked(request, "consumer_ids")
        first, members = pagination.size(PageRequest(first=request.first)), await self._members(consumer_ids)
        queries = await self._words(self.consents.standing, members, request.brand_id)
        found = await self.consents.stand(queries, members, first)
        shown = {id: ([_shaped(word) for word in stand], page) for id, (stand, page) in found.items()}
        return consent_pb2.BatchListConsentsResponse(consumers=batch_lists.answered(name, "consents", shown))

    async def ListConsentChanges(
        self, request: consent_pb2.ListConsentChangesRequest, context: Any
    ) -> consent_pb2.ListConsentChangesResponse:  # fmt: skip
        table, members = self.consents.changes, await self._members([request.consumer_id])
        (query,) = (await self._words(table, members, request.brand_id)).values()
        rows, info = await table.unscoped.page(query, request.page, order=[("at", -1)])
        return consent_pb2.ListConsentChangesResponse(consents=rows, page=info)

    async def _members(self, consumer_ids: Sequence[str]) -> dict[str, list[str]]:
        people = await self.consumers.people(consumer_ids)
        return {id: people.ids_of(id) for id in consumer_ids}

    async def _words(self, table: ScopedCollection[Consent], members: Mapping[str, Sequence[str]], brand_id: str) -> dict[str, Document]:
        """How to read each person's words, said under any of the ids: see `ConsumerRepository.readable`."""
        with_brand = {"brand_id": brand_id} if brand_id else {}
        queries: dict[str, Document] = {id: {"consumer_id": {"$in": list(ids)}} | with_brand for id, ids in members.items()}
        return await self.consumers.readable(table, queries, members)


def _word(said: consent_pb2.SetConsentRequest | identity_pb2.ImportedConsent, consumer_id: str, uow: UnitOfWork) -> Consent:
    """What was said, as a word recorded now."""
    id = ids.new("cns")
    recorded = {"id": id, "word_id": id, "at": uow.at, "recorded_by": uow.caller.id, "consumer_id": consumer_id}
    return as_struct({"granted": False, **fields(said), **recorded}, Consent)


def _shaped(word: Consent) -> Shaped:
    return shaped(as_document(word), consent_pb2.Consent.DESCRIPTOR)
