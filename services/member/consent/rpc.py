"""ConsentService: records, checks and lists consents. Ids of changes are created in the order of recording."""

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
from services.kit.mongo.client import Document, MessageDocument
from services.kit.mongo.codec import project, request_fields, to_document, to_struct
from services.kit.mongo.scoped_collection import BATCH_MAX, ScopedCollection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.consent.enums import Purpose
from services.member.consent.repository import BY_BRAND_AND_PURPOSE, ConsentRepository
from services.member.consent.rules import Consent
from services.member.identity.repository import ConsumerRepository
from services.member.store_projection import StoreProjection


class ConsentCheck(Struct, frozen=True):
    """The validated purpose of a CheckConsents request."""

    purpose: Purpose


class ConsentServicer(consent_pb2_grpc.ConsentServiceServicer):
    def __init__(self, runtime: Runtime, consents: ConsentRepository, consumers: ConsumerRepository, stores: StoreProjection) -> None:
        self.transactions, self.consents, self.consumers, self.stores = runtime.transactions, consents, consumers, stores

    @transactional
    async def SetConsent(self, request: consent_pb2.SetConsentRequest, uow: UnitOfWork) -> consent_pb2.SetConsentResponse:
        if not uow.caller.can_reach(ScopeKind.CONSUMER, request.consumer_id):
            await self.stores.require_brand(request.brand_id, request.store_id, uow.session)
        await self.consumers.get_known(request.consumer_id, request.brand_id, uow.session)
        consent = _build_consent(request, request.consumer_id, uow)
        for refusal in (await self.consents.record(uow, [consent])).values():
            raise refusal
        return consent_pb2.SetConsentResponse(consent=_shape(consent))

    async def import_consents(
        self, uow: UnitOfWork, consumers: Sequence[tuple[str, identity_pb2.ImportedConsumer]]
    ) -> Mapping[str, Refusal]:
        """Records the consents of imported consumers as of the consumer's creation, so that later consents count.

        Returns refusals by consumer id.
        """
        changes = []
        for consumer_id, consumer in consumers:
            created_at = request_fields(consumer).get("created_at", uow.at)
            changes += [replace(_build_consent(consent, consumer_id, uow), at=created_at) for consent in consumer.consents]
        return await self.consents.record(uow, changes)

    async def CheckConsents(self, request: consent_pb2.CheckConsentsRequest, context: Any) -> consent_pb2.CheckConsentsResponse:
        if len(request.brand_ids) > BATCH_MAX:
            message = f"`brandIds` must contain at most {BATCH_MAX} ids. Split the request."
            raise Invalid("BATCH_TOO_LARGE", message, field="brand_ids")
        purpose = to_struct(request_fields(request), ConsentCheck).purpose
        people = await self.consumers.find_people([request.consumer_id])
        granted = await self.consents.find_granted(people.list_consumer_ids(request.consumer_id), list(request.brand_ids), purpose)
        return consent_pb2.CheckConsentsResponse(brand_ids=granted)

    async def ListConsents(self, request: consent_pb2.ListConsentsRequest, context: Any) -> consent_pb2.ListConsentsResponse:
        first, collection, members = (
            pagination.page_size(request.page),
            self.consents.consents,
            await self._list_members([request.consumer_id]),
        )
        queries = await self._build_queries(collection, members, request.brand_id)
        if request.page.after:
            last = pagination.decode_cursor(collection.name, BY_BRAND_AND_PURPOSE, request.page.after, kinds=(str, str))
            queries = {id: {"$and": [query, pagination.filter_after(BY_BRAND_AND_PURPOSE, last)]} for id, query in queries.items()}
        consents, page = (await self.consents.list_latest(queries, members, first)).get(request.consumer_id, ([], PageInfo()))
        return consent_pb2.ListConsentsResponse(consents=[_shape(consent) for consent in consents], page=page)

    async def BatchListConsents(
        self, request: consent_pb2.BatchListConsentsRequest, context: Any
    ) -> consent_pb2.BatchListConsentsResponse:  # fmt: skip
        name, consumer_ids = batch_lists.selected_ids(request, "consumer_ids")
        first, members = pagination.page_size(PageRequest(first=request.first)), await self._list_members(consumer_ids)
        queries = await self._build_queries(self.consents.consents, members, request.brand_id)
        found = await self.consents.list_latest(queries, members, first)
        shown = {id: ([_shape(consent) for consent in consents], page) for id, (consents, page) in found.items()}
        return consent_pb2.BatchListConsentsResponse(consumers=batch_lists.to_lists(name, "consents", shown))

    async def ListConsentChanges(
        self, request: consent_pb2.ListConsentChangesRequest, context: Any
    ) -> consent_pb2.ListConsentChangesResponse:  # fmt: skip
        collection, members = self.consents.changes, await self._list_members([request.consumer_id])
        (query,) = (await self._build_queries(collection, members, request.brand_id)).values()
        changes, info = await collection.unscoped.page(query, request.page, order=[("at", -1)])
        return consent_pb2.ListConsentChangesResponse(consents=changes, page=info)

    async def _list_members(self, consumer_ids: Sequence[str]) -> dict[str, list[str]]:
        people = await self.consumers.find_people(consumer_ids)
        return {id: people.list_consumer_ids(id) for id in consumer_ids}

    async def _build_queries(
        self, collection: ScopedCollection[Consent], members: Mapping[str, Sequence[str]], brand_id: str
    ) -> dict[str, Document]:
        """Returns the query for each person's consents under all consumer ids, restricted by `ConsumerRepository.restrict_to_readable`."""
        with_brand = {"brand_id": brand_id} if brand_id else {}
        queries: dict[str, Document] = {id: {"consumer_id": {"$in": list(ids)}} | with_brand for id, ids in members.items()}
        return await self.consumers.restrict_to_readable(collection, queries, members)


def _build_consent(requested: consent_pb2.SetConsentRequest | identity_pb2.ImportedConsent, consumer_id: str, uow: UnitOfWork) -> Consent:
    """Returns a requested consent as a change that is recorded now."""
    id = ids.new("cns")
    recorded = {"id": id, "word_id": id, "at": uow.at, "recorded_by": uow.caller.id, "consumer_id": consumer_id}
    return to_struct({"granted": False, **request_fields(requested), **recorded}, Consent)


def _shape(consent: Consent) -> MessageDocument:
    return project(to_document(consent), consent_pb2.Consent.DESCRIPTOR)
