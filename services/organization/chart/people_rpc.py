"""Mixin of ChartServicer: staff and their grants."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

from quanyu.access.v1 import access_pb2
from quanyu.organization.v1 import chart_pb2
from services.kit import ids
from services.kit.clock import Clock
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Denied
from services.kit.mongo.client import MessageDocument, Session
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.rpc import batch_lists
from services.kit.security.caller import current_caller
from services.kit.security.encryption import FieldEncryption
from services.kit.transactions.unit_of_work import TransactionRunner, UnitOfWork, transactional
from services.organization.chart import people
from services.organization.chart.enums import Reason
from services.organization.chart.people import GRANTS_MAX, SUBJECT_LENGTH_MAX, Grant, HeldRole, Staff, StaffDraft, Workplace
from services.organization.chart.repository import ChartRepository

OPERATOR = "operator"
"""In development, this subject signs in as the operator of the installation."""
ACTIVE = {"active": True}
CONSUMER_FIELDS = ("id", "name", "title", "active")
"""The fields of a member of staff that a consumer may see."""

FindContacts: TypeAlias = Callable[[Collection[str], Collection[str]], Awaitable[set[str]]]
"""(ids of one consumer, staff ids) -> the staff who are guides of the consumer, or wrote to the consumer."""


def caller_roles() -> list[HeldRole]:
    """Returns the caller's roles, as far as the access rule of the rpc admits them."""
    current = current_caller()
    if current.is_unrestricted:
        return [HeldRole(Role.OPERATOR, ScopeKind.INSTALLATION)]
    return [HeldRole(grant.role, grant.kind, grant.id) for grant in current.grants]


class PeopleMixin:
    """The rpcs of `ChartService` for staff. ChartServicer sets the attributes."""

    chart: ChartRepository
    transactions: TransactionRunner
    encryption: FieldEncryption
    clock: Clock
    development: bool
    find_contacts: FindContacts

    async def _load_workplace(self, request: Any, session: Session) -> Workplace:
        """Returns the workplace that a request names. `NotFound` if it is outside the caller's scope."""
        match request.WhichOneof("place"):
            case "store_id":
                return people.store_workplace(await self.chart.stores.load(request.store_id, session=session, writing=True))
            case "org_unit_id":
                return people.org_unit_workplace(await self.chart.org_units.load(request.org_unit_id, session=session, writing=True))
        raise people.missing_workplace()

    def _new_staff(self, id: str, draft: StaffDraft) -> Staff:
        """Returns a new member of staff without a workplace. The name is encrypted, the sign-in subject is hashed."""
        subject_hash = self.encryption.hash("subject", draft.subject) if draft.subject else None
        return Staff(id=id, name=self.encryption.encrypt(draft.name), title=draft.title, subject_hash=subject_hash)

    def _decrypt_name(self, staff: MessageDocument) -> MessageDocument:
        return staff | {"name": self.encryption.decrypt(staff["name"])}

    @transactional
    async def HireStaff(self, request: chart_pb2.HireStaffRequest, uow: UnitOfWork) -> chart_pb2.HireStaffResponse:
        # The operator may omit the workplace, since district operators belong to the installation.
        belongs_to_installation = request.WhichOneof("place") is None and current_caller().is_unrestricted
        workplace = Workplace() if belongs_to_installation else await self._load_workplace(request, uow.session)
        new = self._new_staff(request.staff_id or ids.new("stf"), to_struct(request_fields(request), StaffDraft))
        staff = people.assign(new, workplace)
        await self.chart.require_free_id(self.chart.staff, staff.id, Reason.STAFF_EXISTS, uow.session)
        hashes = self.encryption.hash_with_all_keys("subject", request.subject)
        if staff.subject_hash and await self.chart.find_by_subjects(hashes, uow.session):
            raise people.subject_in_use()
        await self.chart.staff.unscoped.insert(uow, staff)
        uow.publish(people.staff_changed_event(staff))
        return chart_pb2.HireStaffResponse(staff_id=staff.id)

    @transactional
    async def MoveStaff(self, request: chart_pb2.MoveStaffRequest, uow: UnitOfWork) -> chart_pb2.MoveStaffResponse:
        staff = await self.chart.staff.load(request.staff_id, session=uow.session, writing=True)
        workplace = await self._load_workplace(request, uow.session)
        moved, events = people.move(staff, workplace)
        uow.publish(*events)
        await self.chart.staff.unscoped.replace(uow, moved, before=staff)
        former = people.select_at_workplace(
            await self.chart.load_grants([staff.id], uow.session), Workplace(staff.brand_id, staff.org_unit_id, staff.store_id)
        )
        ended = await self._end_grants(former if events else [], uow)
        return chart_pb2.MoveStaffResponse(staff_id=staff.id, ended_grant_ids=ended)

    @transactional
    async def DismissStaff(self, request: chart_pb2.DismissStaffRequest, uow: UnitOfWork) -> chart_pb2.DismissStaffResponse:
        await self.chart.staff.apply_rule(uow, request.staff_id, people.dismiss)
        ended = await self._end_grants(await self.chart.load_grants([request.staff_id], uow.session), uow)
        return chart_pb2.DismissStaffResponse(staff_id=request.staff_id, ended_grant_ids=ended)

    async def _end_grants(self, grants: list[Grant], uow: UnitOfWork) -> list[str]:
        ended = {grant.id: grant for grant in people.end_grants(grants, uow.at)}
        await self.chart.save(self.chart.grants, [(grant, ended[grant.id]) for grant in grants if grant.id in ended], uow.session)
        return sorted(ended)

    async def BatchGetStaff(self, request: chart_pb2.BatchGetStaffRequest, context: Any) -> chart_pb2.BatchGetStaffResponse:
        staff = [self._decrypt_name(one) for one in await self.chart.staff.batch(request.ids)]
        staff += await self._load_contacts(set(request.ids) - {one["id"] for one in staff})
        return chart_pb2.BatchGetStaffResponse(staff=staff)

    async def _load_contacts(self, ids: set[str]) -> list[MessageDocument]:
        """Returns those of the staff who are guides of the calling consumer or wrote to them, with `CONSUMER_FIELDS`."""
        consumer_ids = current_caller().reach.get(ScopeKind.CONSUMER)
        if not consumer_ids or not ids:
            return []
        contact_ids = await self.find_contacts(consumer_ids, ids)
        contacts = [self._decrypt_name(one) for one in await self.chart.staff.unscoped.batch(sorted(contact_ids))]
        return [{name: one[name] for name in CONSUMER_FIELDS if name in one} for one in contacts]

    async def ListStaff(self, request: chart_pb2.ListStaffRequest, context: Any) -> chart_pb2.ListStaffResponse:
        staff, page = await self.chart.staff.page({"store_id": request.store_id} | ACTIVE, request.page, order=[])
        return chart_pb2.ListStaffResponse(staff=[self._decrypt_name(one) for one in staff], page=page)

    async def BatchListStaff(self, request: chart_pb2.BatchListStaffRequest, context: Any) -> chart_pb2.BatchListStaffResponse:
        name, store_ids = batch_lists.selected_ids(request, "store_ids")
        found = await self.chart.staff.first_pages({id: {name: id} | ACTIVE for id in store_ids}, request.first, order=[])
        pages = {id: ([self._decrypt_name(one) for one in staff], page) for id, (staff, page) in found.items()}
        return chart_pb2.BatchListStaffResponse(stores=batch_lists.to_lists(name, "staff", pages))

    # Roles -----------------------------------------------------------------------------------------------------------

    @transactional
    async def GrantRole(self, request: chart_pb2.GrantRoleRequest, uow: UnitOfWork) -> chart_pb2.GrantRoleResponse:
        draft = to_struct(request_fields(request), people.GrantDraft)
        staff = await self.chart.staff.load(request.staff_id, session=uow.session, writing=True)
        scope = await self.chart.load_scope(draft.kind, draft.scope_id, uow.session)
        existing = await self.chart.load_grants([staff.id], uow.session)
        grant = people.grant_role(
            ids.new("grt"), staff, draft.role, scope, caller_roles(), existing, uow.at, draft.valid_from, draft.valid_until
        )  # fmt: skip
        # This write changes nothing but the version, so that concurrent grants for one person conflict.
        await self.chart.staff.unscoped.replace(uow, staff)
        return chart_pb2.GrantRoleResponse(grant=await self.chart.grants.unscoped.insert(uow, grant))

    @transactional
    async def RevokeGrant(self, request: chart_pb2.RevokeGrantRequest, uow: UnitOfWork) -> chart_pb2.RevokeGrantResponse:
        grant = await self.chart.grants.load(request.grant_id, session=uow.session, writing=True)
        scope = await self.chart.load_scope(grant.kind, grant.scope_id, uow.session)
        if not people.can_grant(caller_roles(), grant.role, scope):
            message = "You have no role that covers this grant. Ask a superior to revoke it."
            raise Denied(Reason.BEYOND_OWN_REACH, message, grant_id=grant.id)
        after = (people.end_grants([grant], uow.at) or [grant])[0]
        return chart_pb2.RevokeGrantResponse(grant=await self.chart.grants.unscoped.replace(uow, after, before=grant))

    async def ResolveGrants(self, request: chart_pb2.ResolveGrantsRequest, context: Any) -> chart_pb2.ResolveGrantsResponse:
        if request.subject == OPERATOR and self.development:
            operator = access_pb2.Grant(role=access_pb2.ROLE_OPERATOR, kind=access_pb2.SCOPE_KIND_INSTALLATION)
            return chart_pb2.ResolveGrantsResponse(staff_id=f"stf_{OPERATOR}", grants=[operator])
        staff = await self._find_by_subject(request.subject)
        if staff is None or not staff.active:
            return chart_pb2.ResolveGrantsResponse()
        grants = people.resolve_roles(staff, await self.chart.load_grants([staff.id]), self.clock())[:GRANTS_MAX]
        return chart_pb2.ResolveGrantsResponse(staff_id=staff.id, brand_id=staff.brand_id, grants=[_message(one) for one in grants])

    async def _find_by_subject(self, subject: str) -> Staff | None:
        """Returns the person of an authenticated subject; the subject may be a staff id."""
        if not subject or len(subject) > SUBJECT_LENGTH_MAX:
            return None
        if found := await self.chart.find_by_subjects(self.encryption.hash_with_all_keys("subject", subject)):
            return found[0]
        document = await self.chart.staff.collection.find_one({"_id": subject})
        return to_struct(document, Staff) if document else None


def _message(role: HeldRole) -> access_pb2.Grant:
    return access_pb2.Grant(role=access_pb2.Role.Value(role.role), kind=access_pb2.ScopeKind.Value(role.kind), id=role.id)
