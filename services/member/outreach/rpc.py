"""OutreachService: binds consumers to guides, and sends and lists messages.

The text of a message is decrypted only for callers who have the message in scope.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.member.v1 import identity_pb2, outreach_pb2, outreach_pb2_grpc
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid, NotFound, Refusal
from services.kit.mongo.client import Document, MessageDocument
from services.kit.mongo.codec import project, request_fields, to_document, to_struct
from services.kit.mongo.scoped_collection import BATCH_MAX, Page, ScopedCollection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.consent.enums import Purpose
from services.member.consent.repository import ConsentRepository
from services.member.full_documents import find_full, find_full_pages
from services.member.identity.repository import ConsumerRepository
from services.member.outreach import rules
from services.member.outreach.enums import Reason
from services.member.outreach.repository import BindingRepository, OutreachRepository
from services.member.outreach.rules import Binding, BindingAuthority, BindingRequest, Draft, Outreach, OutreachSent
from services.member.relation.enums import InteractionKind
from services.member.relation.repository import RelationRepository
from services.member.relation.rules import Interaction, interaction_id
from services.member.store_projection import StoreProjection

IMPORT_ROWS_MAX = 500
"""An import contains at most this many bindings."""
READ_MAX = 100
"""A call marks at most this many messages as read."""
LATEST_MESSAGE_FIRST = [("sent_at", -1)]
LATEST_BINDING_FIRST = [("bound_at", -1)]


class OutreachServicer(outreach_pb2_grpc.OutreachServiceServicer):
    def __init__(
        self,
        runtime: Runtime,
        bindings: BindingRepository,
        outreaches: OutreachRepository,
        relations: RelationRepository,
        consents: ConsentRepository,
        consumers: ConsumerRepository,
        stores: StoreProjection,
    ) -> None:
        self.transactions, self.encryption = runtime.transactions, runtime.encryption
        self.bindings, self.outreaches = bindings, outreaches
        self.relations, self.consents, self.consumers, self.stores = relations, consents, consumers, stores

    # bindings --------------------------------------------------------------------------------------------------------

    @transactional
    async def BindConsumer(self, request: outreach_pb2.BindConsumerRequest, uow: UnitOfWork) -> outreach_pb2.BindConsumerResponse:
        (bound,) = await self._bind(uow, [to_struct(request_fields(request), BindingRequest)], request.brand_id)
        if isinstance(bound, Refusal):
            raise bound
        return outreach_pb2.BindConsumerResponse(binding=_shape(bound))

    @transactional
    async def ImportBindings(self, request: outreach_pb2.ImportBindingsRequest, uow: UnitOfWork) -> outreach_pb2.ImportBindingsResponse:
        if not 1 <= len(request.bindings) <= IMPORT_ROWS_MAX:
            raise Invalid(
                Reason.INVALID_FIELD, f"`bindings` must contain 1 to {IMPORT_ROWS_MAX} rows. Split a larger import.", field="bindings"
            )
        results = await self._bind(uow, [BindingRequest(**request_fields(binding)) for binding in request.bindings], request.brand_id)
        refusals = {index: result for index, result in enumerate(results) if isinstance(result, Refusal)}
        rejects = [
            identity_pb2.ImportReject(index=index, reason=refusal.reason, message=refusal.message) for index, refusal in refusals.items()
        ]
        return outreach_pb2.ImportBindingsResponse(bound=len(results) - len(rejects), rejects=rejects)

    async def _bind(self, uow: UnitOfWork, requests: Sequence[BindingRequest], brand_id: str) -> list[Binding | Refusal]:
        """Makes bindings one after the other, each on the state that the earlier ones left; returns a refusal in place of a bad one."""
        consumer_ids, session = [request.consumer_id for request in requests], uow.session
        people = await self.consumers.find_people(consumer_ids, session)
        known = await self.consumers.find_known(consumer_ids, brand_id, session)
        staff = await self.bindings.find_staff([request.staff_id for request in requests], session)
        authority = _build_authority(uow, brand_id)
        active: dict[str, list[Binding]] = {}
        member_ids = [member_id for id in known for member_id in people.list_consumer_ids(id)]
        for binding in await self.bindings.find_active(member_ids, brand_id, session):
            active.setdefault(people.find_person(binding.consumer_id), []).append(binding)
        results: list[Binding | Refusal] = []
        new: dict[str, Binding] = {}
        ended: dict[str, Binding] = {}
        for request in requests:
            person = people.find_person(request.consumer_id)
            try:
                if person in new:
                    raise rules.repeated_consumer()
                if request.consumer_id not in known:
                    raise rules.consumer_not_found(request.consumer_id)
                current = active.get(person, [])
                binding, replaced, events = rules.bind(
                    ids.new("bnd"), request, brand_id, staff.get(request.staff_id), current, authority, uow.at
                )  # fmt: skip
            except Refusal as refusal:
                results.append(refusal)
                continue
            new[person] = binding
            ended |= {one.id: one for one in replaced}
            uow.publish(*events)
            results.append(binding)
        await self.bindings.save(uow, brand_id, list(new.values()), list(ended.values()))
        return results

    @transactional
    async def UnbindConsumer(self, request: outreach_pb2.UnbindConsumerRequest, uow: UnitOfWork) -> outreach_pb2.UnbindConsumerResponse:
        people = await self.consumers.find_people([request.consumer_id], uow.session)
        current = await self.bindings.find_active(people.list_consumer_ids(request.consumer_id), request.brand_id, uow.session)
        ended, events = rules.unbind(request.consumer_id, request.brand_id, current, _build_authority(uow, request.brand_id), uow.at)
        await self.bindings.save(uow, request.brand_id, [], ended)
        uow.publish(*events)
        return outreach_pb2.UnbindConsumerResponse(binding=_shape(max(ended, key=lambda binding: binding.bound_at)))

    async def GetBinding(self, request: outreach_pb2.GetBindingRequest, context: Any) -> outreach_pb2.GetBindingResponse:
        found = await self._find_bindings([request.consumer_id], request.brand_id)
        if not found or not request.brand_id:
            message = "No binding of this consumer to this brand, or you may not see it. Check both ids."
            raise NotFound(Reason.NOT_BOUND, message, consumer_id=request.consumer_id)
        return outreach_pb2.GetBindingResponse(binding=found[0]["binding"])

    async def BatchGetBindings(
        self, request: outreach_pb2.BatchGetBindingsRequest, context: Any
    ) -> outreach_pb2.BatchGetBindingsResponse:  # fmt: skip
        if len(request.consumer_ids) > BATCH_MAX:
            message = f"`consumerIds` must contain at most {BATCH_MAX} ids. Split the request."
            raise Invalid("BATCH_TOO_LARGE", message, field="consumer_ids")
        return outreach_pb2.BatchGetBindingsResponse(bindings=await self._find_bindings(request.consumer_ids, request.brand_id))

    async def _find_bindings(self, consumer_ids: Sequence[str], brand_id: str) -> list[MessageDocument]:
        """Returns, for each consumer and brand, the binding that counts for the person, if the caller may read it."""
        people = await self.consumers.find_people(consumer_ids)
        members = {id: people.list_consumer_ids(id) for id in consumer_ids}
        found: dict[str, list[Binding]] = {}
        member_ids = {member_id for person_ids in members.values() for member_id in person_ids}
        for binding in await self.bindings.find_active_in_scope(member_ids, brand_id):
            found.setdefault(people.find_person(binding.consumer_id), []).append(binding)
        results = []
        for id in members:
            bindings = found.get(people.find_person(id), [])
            for brand in sorted({binding.brand_id for binding in bindings}):
                current = rules.select_current(binding for binding in bindings if binding.brand_id == brand)
                results.append({"consumer_id": id, "binding": _shape(current)} if current else {})
        return results

    async def ListClients(self, request: outreach_pb2.ListClientsRequest, context: Any) -> outreach_pb2.ListClientsResponse:
        query = {"staff_id": request.staff_id, "active": True}
        bindings, info = await self.bindings.bindings.page(query, request.page, order=LATEST_BINDING_FIRST)
        return outreach_pb2.ListClientsResponse(bindings=bindings, page=info)

    async def BatchListClients(self, request: outreach_pb2.BatchListClientsRequest, context: Any) -> outreach_pb2.BatchListClientsResponse:
        name, staff_ids = batch_lists.selected_ids(request, "staff_ids")
        queries = {id: {name: id, "active": True} for id in staff_ids}
        found = await self.bindings.bindings.first_pages(queries, request.first, order=LATEST_BINDING_FIRST)
        return outreach_pb2.BatchListClientsResponse(staff=batch_lists.to_lists(name, "bindings", found))

    # messages --------------------------------------------------------------------------------------------------------

    @transactional
    async def SendOutreach(self, request: outreach_pb2.SendOutreachRequest, uow: UnitOfWork) -> outreach_pb2.SendOutreachResponse:
        draft = rules.check_text(to_struct(request_fields(request), Draft))
        people = await self.consumers.find_people([draft.consumer_id], uow.session)
        members = people.list_consumer_ids(draft.consumer_id)
        staff = (await self.bindings.find_staff([draft.staff_id], uow.session)).get(draft.staff_id)
        store = await self.stores.find(staff.store_id, uow.session) if staff else None
        earlier = await self.outreaches.find_caps(people, draft.consumer_id, draft.brand_id, uow.session)
        binding, remaining = rules.authorize_send(
            staff,
            draft.staff_id,
            await self.bindings.find_active(members, draft.brand_id, uow.session),
            bool(await self.consents.find_granted(members, [draft.brand_id], Purpose.OUTREACH, uow.session)),
            [time for cap in earlier for time in cap.times],
            uow.at,
            (store.zone if store else "") or rules.DEFAULT_ZONE,
        )
        outreach = Outreach(
            id=ids.new("out"),
            consumer_id=draft.consumer_id,
            brand_id=draft.brand_id,
            staff_id=draft.staff_id,
            store_id=binding.store_id,
            ciphertext=self.encryption.encrypt(draft.text),
            sent_at=uow.at,
            channel=draft.channel,
            task_id=draft.task_id,
        )
        await self.outreaches.send(uow, people, outreach, earlier)
        await self.relations.record(uow, [_build_interaction(outreach)])
        uow.publish(
            OutreachSent(outreach.id, outreach.consumer_id, outreach.brand_id, outreach.staff_id, outreach.store_id, outreach.task_id)
        )
        return outreach_pb2.SendOutreachResponse(outreach_id=outreach.id, remaining=remaining)

    async def ListOutreaches(self, request: outreach_pb2.ListOutreachesRequest, context: Any) -> outreach_pb2.ListOutreachesResponse:
        filters = {name: id for name in ("staff_id", "store_id", "brand_id") if (id := getattr(request, name))}
        if len(filters) != 1:
            message = "Give exactly one of `staffId`, `storeId` and `brandId`."
            raise Invalid(Reason.STAFF_STORE_OR_BRAND, message, field="staff_id")
        outreaches, info = await self._read_page(self.outreaches.outreaches, filters, request.page)
        return outreach_pb2.ListOutreachesResponse(outreaches=outreaches, page=info)

    async def BatchListOutreaches(
        self, request: outreach_pb2.BatchListOutreachesRequest, context: Any
    ) -> outreach_pb2.BatchListOutreachesResponse:
        name, ids = batch_lists.selected_ids(request, "staff_ids", "store_ids", "brand_ids")
        found = await self._read_first_pages(self.outreaches.outreaches, {id: {name: id} for id in ids}, request.first)
        return outreach_pb2.BatchListOutreachesResponse(lists=batch_lists.to_lists("key", "outreaches", found))

    async def BatchGetOutreaches(
        self, request: outreach_pb2.BatchGetOutreachesRequest, context: Any
    ) -> outreach_pb2.BatchGetOutreachesResponse:  # fmt: skip
        found = await find_full(self.outreaches.outreaches, await self.outreaches.outreaches.batch(request.ids))
        return outreach_pb2.BatchGetOutreachesResponse(outreaches=[self._decrypt(one) for one in found])

    async def ListInbox(self, request: outreach_pb2.ListInboxRequest, context: Any) -> outreach_pb2.ListInboxResponse:
        members = await self.consumers.list_consumer_ids(request.consumer_id)
        # Authorization checked one of the ids: all of them are the same person.
        outreaches, info = await self._read_page(self.outreaches.outreaches.unscoped, {"consumer_id": {"$in": members}}, request.page)
        return outreach_pb2.ListInboxResponse(outreaches=outreaches, page=info, unread=await self.outreaches.count_unread(members))

    async def BatchListInbox(self, request: outreach_pb2.BatchListInboxRequest, context: Any) -> outreach_pb2.BatchListInboxResponse:
        name, consumer_ids = batch_lists.selected_ids(request, "consumer_ids")
        people = await self.consumers.find_people(consumer_ids)
        # As in ListInbox: a caller who reaches one id of a person reads the messages to all of them.
        reachable = [id for id in consumer_ids if current_caller().can_reach(ScopeKind.CONSUMER, id)]
        queries: dict[str, Document] = {id: {"consumer_id": {"$in": people.list_consumer_ids(id)}} for id in reachable}
        found = await self._read_first_pages(self.outreaches.outreaches.unscoped, queries, request.first)
        unread = await self.outreaches.count_unread_by_key({id: queries[id] for id in found}) if found else {}
        lists = [one | {"unread": unread.get(one[name], 0)} for one in batch_lists.to_lists(name, "outreaches", found)]
        return outreach_pb2.BatchListInboxResponse(consumers=lists)

    async def WatchInbox(
        self, request: outreach_pb2.WatchInboxRequest, context: Any
    ) -> AsyncGenerator[outreach_pb2.WatchInboxResponse, None]:  # fmt: skip
        async with aclosing(self.outreaches.follow(context, request.after, request.consumer_id)) as messages:
            async for message, cursor, unread in messages:
                yield outreach_pb2.WatchInboxResponse(message=self._decrypt(message), cursor=cursor, unread=unread)

    async def _read_page(self, collection: ScopedCollection[Outreach], query: Document, page: PageRequest) -> Page:
        found, info = await collection.page(query, page, order=LATEST_MESSAGE_FIRST)
        return [self._decrypt(one) for one in await find_full(collection, found)], info

    async def _read_first_pages(
        self, collection: ScopedCollection[Outreach], queries: Mapping[str, Document], first: int
    ) -> dict[str, Page]:
        found = await find_full_pages(collection, await collection.first_pages(queries, first, order=LATEST_MESSAGE_FIRST))
        return {key: ([self._decrypt(one) for one in outreaches], info) for key, (outreaches, info) in found.items()}

    @transactional
    async def MarkRead(self, request: outreach_pb2.MarkReadRequest, uow: UnitOfWork) -> outreach_pb2.MarkReadResponse:
        outreach_ids = sorted(set(request.outreach_ids))
        if not 1 <= len(outreach_ids) <= READ_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"`outreachIds` must contain 1 to {READ_MAX} ids.", field="outreach_ids")
        people = await self.consumers.find_people([request.consumer_id], uow.session)
        found = await self.outreaches.find_received(uow, outreach_ids, people.list_consumer_ids(request.consumer_id))
        if missing := set(outreach_ids) - {outreach.id for outreach in found}:
            message = "No such message, or you may not see it. Check `outreachIds`."
            raise NotFound(Reason.OUTREACH_NOT_FOUND, message, outreach_ids=sorted(missing))
        unread = [outreach for outreach in found if outreach.unread]
        await self.outreaches.save_outcomes(uow, [rules.mark_read(outreach, uow.at) for outreach in unread])
        return outreach_pb2.MarkReadResponse(marked=len(unread))

    def _decrypt(self, outreach: Outreach) -> MessageDocument:
        """Returns a message with its text; the caller must have the message in scope."""
        document = to_document(outreach) | {"text": self.encryption.decrypt(outreach.ciphertext)}
        return project(document, outreach_pb2.Outreach.DESCRIPTOR)


def _build_authority(uow: UnitOfWork, brand_id: str) -> BindingAuthority:
    """Returns the caller's authority over bindings to a brand."""
    reach = uow.caller.reach
    return BindingAuthority(
        uow.caller.can_reach(ScopeKind.BRAND, brand_id), reach.get(ScopeKind.STORE, frozenset()), reach.get(ScopeKind.STAFF, frozenset())
    )


def _build_interaction(outreach: Outreach) -> Interaction:
    """Returns the interaction of a message."""
    return Interaction(
        id=interaction_id(outreach.id, outreach.brand_id),
        consumer_id=outreach.consumer_id,
        brand_id=outreach.brand_id,
        kind=InteractionKind.OUTREACH_RECEIVED,
        at=outreach.sent_at,
        touchpoint="TOUCHPOINT_GUIDE_CHAT",
        scenario="SCENARIO_OFF_STORE",
        ref=outreach.id,
    )


def _shape(binding: Binding) -> MessageDocument:
    return project(to_document(binding), outreach_pb2.Binding.DESCRIPTOR)
