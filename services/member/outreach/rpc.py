"""OutreachService. Who may bind or write is decided by the rules; the text of a message is opened only for who may read it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.member.v1 import identity_pb2, outreach_pb2, outreach_pb2_grpc
from services.kit import ids
from services.kit.enums import ScopeKind
from services.kit.errors import Invalid, NotFound, Refusal
from services.kit.mongo.client import Document, Shaped
from services.kit.mongo.codec import as_document, as_struct, fields, shaped
from services.kit.mongo.scoped_collection import BATCH_MAX, Page, ScopedCollection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import caller
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.member.consent.enums import Purpose
from services.member.consent.repository import ConsentRepository
from services.member.full_documents import whole, whole_pages
from services.member.identity.repository import ConsumerRepository
from services.member.outreach import rules
from services.member.outreach.enums import Reason
from services.member.outreach.repository import BindingRepository, OutreachRepository
from services.member.outreach.rules import Binder, Binding, Draft, ImportedBinding, Outreach, OutreachSent
from services.member.relation.enums import InteractionKind
from services.member.relation.repository import RelationRepository
from services.member.relation.rules import Interaction, interaction_id
from services.member.store_projection import StoreProjection

ROWS_MAX = 500
READ_MAX = 100
LATEST_FIRST = [("sent_at", -1)]
LATEST_BOUND_FIRST = [("bound_at", -1)]


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
        (bound,) = await self._bind(uow, [as_struct(fields(request), ImportedBinding)], request.brand_id)
        if isinstance(bound, Refusal):
            raise bound
        return outreach_pb2.BindConsumerResponse(binding=_shaped(bound))

    @transactional
    async def ImportBindings(self, request: outreach_pb2.ImportBindingsRequest, uow: UnitOfWork) -> outreach_pb2.ImportBindingsResponse:
        if not 1 <= len(request.bindings) <= ROWS_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"give 1 to {ROWS_MAX} rows", field="bindings")
        answers = await self._bind(uow, [ImportedBinding(**fields(row)) for row in request.bindings], request.brand_id)
        refused = {index: answer for index, answer in enumerate(answers) if isinstance(answer, Refusal)}
        rejects = [
            identity_pb2.ImportReject(index=index, reason=refusal.reason, message=refusal.message) for index, refusal in refused.items()
        ]
        return outreach_pb2.ImportBindingsResponse(bound=len(answers) - len(rejects), rejects=rejects)

    async def _bind(self, uow: UnitOfWork, rows: Sequence[ImportedBinding], brand_id: str) -> list[Binding | Refusal]:
        """Makes bindings one after the other, each seeing the ones before it; what cannot be is answered, not raised."""
        asked, session = [row.consumer_id for row in rows], uow.session
        people, known = await self.consumers.people(asked, session), await self.consumers.all_known(asked, brand_id, session)
        staff = await self.bindings.staff_of([row.staff_id for row in rows], session)
        active: dict[str, list[Binding]] = {}
        for binding in await self.bindings.active([one for id in known for one in people.ids_of(id)], brand_id, session):
            active.setdefault(people.person_of(binding.consumer_id), []).append(binding)
        answers: list[Binding | Refusal] = []
        new: dict[str, Binding] = {}
        ended: dict[str, Binding] = {}
        for row in rows:
            person = people.person_of(row.consumer_id)
            try:
                if person in new:
                    raise rules.bound_twice()
                if row.consumer_id not in known:
                    raise rules.unknown(row.consumer_id)
                current = active.get(person, [])
                binding, gone, events = rules.bind(
                    ids.new("bnd"), row, brand_id, staff.get(row.staff_id), current, _binder(uow, brand_id), uow.at
                )  # fmt: skip
            except Refusal as refusal:
                answers.append(refusal)
                continue
            new[person] = binding
            ended |= {one.id: one for one in gone}
            uow.publish(*events)
            answers.append(binding)
        await self.bindings.write(uow, brand_id, list(new.values()), list(ended.values()))
        return answers

    @transactional
    async def UnbindConsumer(self, request: outreach_pb2.UnbindConsumerRequest, uow: UnitOfWork) -> outreach_pb2.UnbindConsumerResponse:
        people = await self.consumers.people([request.consumer_id], uow.session)
        current = await self.bindings.active(people.ids_of(request.consumer_id), request.brand_id, uow.session)
        ended, events = rules.unbind(request.consumer_id, request.brand_id, current, _binder(uow, request.brand_id), uow.at)
        await self.bindings.write(uow, request.brand_id, [], ended)
        uow.publish(*events)
        return outreach_pb2.UnbindConsumerResponse(binding=_shaped(max(ended, key=lambda one: one.bound_at)))

    async def GetBinding(self, request: outreach_pb2.GetBindingRequest, context: Any) -> outreach_pb2.GetBindingResponse:
        found = await self._bound([request.consumer_id], request.brand_id)
        if not found or not request.brand_id:
            raise NotFound(Reason.NOT_BOUND, "this consumer is bound to nobody of yours", consumer_id=request.consumer_id)
        return outreach_pb2.GetBindingResponse(binding=found[0]["binding"])

    async def BatchGetBindings(
        self, request: outreach_pb2.BatchGetBindingsRequest, context: Any
    ) -> outreach_pb2.BatchGetBindingsResponse:  # fmt: skip
        if len(request.consumer_ids) > BATCH_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"ask for at most {BATCH_MAX} at a time", field="consumer_ids")
        return outreach_pb2.BatchGetBindingsResponse(bindings=await self._bound(request.consumer_ids, request.brand_id))

    async def _bound(self, asked: Sequence[str], brand_id: str) -> list[Shaped]:
        """Per consumer asked for and brand the binding that counts for the person, as far as the caller may read it."""
        people = await self.consumers.people(asked)
        members = {id: people.ids_of(id) for id in asked}
        found: dict[str, list[Binding]] = {}
        for binding in await self.bindings.in_scope({one for all_ids in members.values() for one in all_ids}, brand_id):
            found.setdefault(people.person_of(binding.consumer_id), []).append(binding)
        answers = []
        for id in members:
            theirs = found.get(people.person_of(id), [])
            for brand in sorted({binding.brand_id for binding in theirs}):
                counts = rules.current(binding for binding in theirs if binding.brand_id == brand)
                answers.append({"consumer_id": id, "binding": _shaped(counts)} if counts else {})
        return answers

    async def ListClients(self, request: outreach_pb2.ListClientsRequest, context: Any) -> outreach_pb2.ListClientsResponse:
        query = {"staff_id": request.staff_id, "active": True}
        rows, info = await self.bindings.table.page(query, request.page, order=LATEST_BOUND_FIRST)
        return outreach_pb2.ListClientsResponse(bindings=rows, page=info)

    async def BatchListClients(self, request: outreach_pb2.BatchListClientsRequest, context: Any) -> outreach_pb2.BatchListClientsResponse:
        name, staff_ids = batch_lists.asked(request, "staff_ids")
        queries = {id: {name: id, "active": True} for id in staff_ids}
        found = await self.bindings.table.first_pages(queries, request.first, order=LATEST_BOUND_FIRST)
        return outreach_pb2.BatchListClientsResponse(staff=batch_lists.answered(name, "bindings", found))

    # messages --------------------------------------------------------------------------------------------------------

    @transactional
    async def SendOutreach(self, request: outreach_pb2.SendOutreachRequest, uow: UnitOfWork) -> outreach_pb2.SendOutreachResponse:
        draft = rules.legible(as_struct(fields(request), Draft))
        people = await self.consumers.people([draft.consumer_id], uow.session)
        members = people.ids_of(draft.consumer_id)
        staff = (await self.bindings.staff_of([draft.staff_id], uow.session)).get(draft.staff_id)
        store = await self.stores.find(staff.store_id, uow.session) if staff else None
        earlier = await self.outreaches.sent_to(people, draft.consumer_id, draft.brand_id, uow.session)
        binding, remaining = rules.may_send(
            staff,
            draft.staff_id,
            await self.bindings.active(members, draft.brand_id, uow.session),
            bool(await self.consents.granted(members, [draft.brand_id], Purpose.OUTREACH, uow.session)),
            [time for sent in earlier for time in sent.times],
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
        await self.relations.record(uow, [_interaction(outreach)])
        uow.publish(
            OutreachSent(outreach.id, outreach.consumer_id, outreach.brand_id, outreach.staff_id, outreach.store_id, outreach.task_id)
        )
        return outreach_pb2.SendOutreachResponse(outreach_id=outreach.id, remaining=remaining)

    async def ListOutreaches(self, request: outreach_pb2.ListOutreachesRequest, context: Any) -> outreach_pb2.ListOutreachesResponse:
        given = {name: id for name in ("staff_id", "store_id", "brand_id") if (id := getattr(request, name))}
        if len(given) != 1:
            raise Invalid(Reason.STAFF_STORE_OR_BRAND, "give exactly one of staff, store and brand", field="staff_id")
        rows, info = await self._page(self.outreaches.table, given, request.page)
        return outreach_pb2.ListOutreachesResponse(outreaches=rows, page=info)

    async def BatchListOutreaches(
        self, request: outreach_pb2.BatchListOutreachesRequest, context: Any
    ) -> outreach_pb2.BatchListOutreachesResponse:
        name, ids = batch_lists.asked(request, "staff_ids", "store_ids", "brand_ids")
        found = await self._first_pages(self.outreaches.table, {id: {name: id} for id in ids}, request.first)
        return outreach_pb2.BatchListOutreachesResponse(lists=batch_lists.answered("key", "outreaches", found))

    async def BatchGetOutreaches(
        self, request: outreach_pb2.BatchGetOutreachesRequest, context: Any
    ) -> outreach_pb2.BatchGetOutreachesResponse:  # fmt: skip
        found = await whole(self.outreaches.table, await self.outreaches.table.batch(request.ids))
        return outreach_pb2.BatchGetOutreachesResponse(outreaches=[self._opened(one) for one in found])

    async def ListInbox(self, request: outreach_pb2.ListInboxRequest, context: Any) -> outreach_pb2.ListInboxResponse:
        members = await self.consumers.ids_of(request.consumer_id)
        # The rule let the caller through for one of the ids: all of them are the same person.
        rows, info = await self._page(self.outreaches.table.unscoped, {"consumer_id": {"$in": members}}, request.page)
        return outreach_pb2.ListInboxResponse(outreaches=rows, page=info, unread=await self.outreaches.unread(members))

    async def BatchListInbox(self, request: outreach_pb2.BatchListInboxRequest, context: Any) -> outreach_pb2.BatchListInboxResponse:
        name, asked = batch_lists.asked(request, "consumer_ids")
        people = await self.consumers.people(asked)
        # As in ListInbox: who reaches one of the ids reads what came under all of them.
        queries = {id: {"consumer_id": {"$in": people.ids_of(id)}} for id in asked if caller().reaches(ScopeKind.CONSUMER, id)}
        found = await self._first_pages(self.outreaches.table.unscoped, queries, request.first)
        unread = await self.outreaches.unread_each({id: queries[id] for id in found}) if found else {}
        shown = [one | {"unread": unread.get(one[name], 0)} for one in batch_lists.answered(name, "outreaches", found)]
        return outreach_pb2.BatchListInboxResponse(consumers=shown)

    async def WatchInbox(
        self, request: outreach_pb2.WatchInboxRequest, context: Any
    ) -> AsyncGenerator[outreach_pb2.WatchInboxResponse, None]:  # fmt: skip
        async with aclosing(self.outreaches.follow(context, request.after, request.consumer_id)) as messages:
            async for message, cursor, unread in messages:
                yield outreach_pb2.WatchInboxResponse(message=self._opened(message), cursor=cursor, unread=unread)

    async def _page(self, table: ScopedCollection[Outreach], query: Document, page: PageRequest) -> Page:
        rows, info = await table.page(query, page, order=LATEST_FIRST)
        return [self._opened(one) for one in await whole(table, rows)], info

    async def _first_pages(self, table: ScopedCollection[Outreach], queries: Mapping[str, Document], first: int) -> dict[str, Page]:
        found = await whole_pages(table, await table.first_pages(queries, first, order=LATEST_FIRST))
        return {key: ([self._opened(one) for one in rows], info) for key, (rows, info) in found.items()}

    @transactional
    async def MarkRead(self, request: outreach_pb2.MarkReadRequest, uow: UnitOfWork) -> outreach_pb2.MarkReadResponse:
        asked = sorted(set(request.outreach_ids))
        if not 1 <= len(asked) <= READ_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"give 1 to {READ_MAX} messages", field="outreach_ids")
        members = (await self.consumers.people([request.consumer_id], uow.session)).ids_of(request.consumer_id)
        found = await self.outreaches.sent_to_one(uow, asked, members)
        if missing := set(asked) - {one.id for one in found}:
            raise NotFound(Reason.OUTREACH_NOT_FOUND, "there is no such message for you", outreach_ids=sorted(missing))
        unread = [one for one in found if one.unread]
        await self.outreaches.replace(uow, [rules.read(one, uow.at) for one in unread])
        return outreach_pb2.MarkReadResponse(marked=len(unread))

    def _opened(self, outreach: Outreach) -> Shaped:
        """A message with its text, for somebody who has it in scope."""
        row = as_document(outreach) | {"text": self.encryption.decrypt(outreach.ciphertext)}
        return shaped(row, outreach_pb2.Outreach.DESCRIPTOR)


def _binder(uow: UnitOfWork, brand_id: str) -> Binder:
    """As what the caller binds: for the brand, for stores, or for themself."""
    reach = uow.caller.reach
    return Binder(
        uow.caller.reaches(ScopeKind.BRAND, brand_id), reach.get(ScopeKind.STORE, frozenset()), reach.get(ScopeKind.STAFF, frozenset())
    )


def _interaction(outreach: Outreach) -> Interaction:
    """What a message means for the relation."""
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


def _shaped(binding: Binding) -> Shaped:
    return shaped(as_document(binding), outreach_pb2.Binding.DESCRIPTOR)
