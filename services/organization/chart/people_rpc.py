"""The rpcs of ChartService about people: hiring, moving, leaving, roles, and what a signed-in person may be."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

from quanyu.access.v1 import access_pb2
from quanyu.organization.v1 import chart_pb2
from services.kit import ids
from services.kit.clock import Clock
from services.kit.enums import Role, ScopeKind
from services.kit.errors import Conflict, Denied
from services.kit.mongo.client import Session, Shaped
from services.kit.mongo.codec import as_struct, fields
from services.kit.rpc import batch_lists
from services.kit.security.authorization import caller
from services.kit.security.encryption import FieldEncryption
from services.kit.transactions.unit_of_work import TransactionRunner, UnitOfWork, transactional
from services.organization.chart import people
from services.organization.chart.enums import Reason
from services.organization.chart.people import GRANTS_MAX, SUBJECT_LENGTH_MAX, Grant, Held, Hiring, Place, Staff
from services.organization.chart.repository import ChartRepository

OPERATOR = "operator"
"""Who runs a development installation; no such subject exists elsewhere."""
NOT_LEFT = {"active": True}
BADGE = ("id", "name", "title", "active")
"""What a consumer sees of staff."""

Acquainted: TypeAlias = Callable[[Collection[str], Collection[str]], Awaitable[set[str]]]
"""Consumer ids (one person's), staff ids -> those of the staff who look after that person or wrote to them."""


def held() -> list[Held]:
    """What the current caller holds, of what the rpc's rule let through."""
    who = caller()
    if who.everywhere:
        return [Held(Role.OPERATOR, ScopeKind.INSTALLATION)]
    return [Held(grant.role, grant.kind, grant.id) for grant in who.grants]


class People:
    """Mixed into ChartServicer."""

    chart: ChartRepository
    units: TransactionRunner
    encryption: FieldEncryption
    clock: Clock
    development: bool
    acquainted: Acquainted

    async def _place(self, request: Any, session: Session) -> Place:
        """Where a request says somebody works; `NotFound` outside the caller's scope."""
        match request.WhichOneof("place"):
            case "store_id":
                return people.at_store(await self.chart.stores.load(request.store_id, session=session, writing=True))
            case "org_unit_id":
                return people.at_unit(await self.chart.org_units.load(request.org_unit_id, session=session, writing=True))
        raise people.no_place()

    def _hired(self, id: str, hiring: Hiring) -> Staff:
        """Somebody taken on who has no place yet: the name as ciphertext, the sign-in as a look-up hash."""
        subject_hash = self.encryption.hash("subject", hiring.subject) if hiring.subject else None
        return Staff(id=id, name=self.encryption.encrypt(hiring.name), title=hiring.title, subject_hash=subject_hash)

    def _shown(self, row: Shaped) -> Shaped:
        return row | {"name": self.encryption.decrypt(row["name"])}

    @transactional
    async def HireStaff(self, request: chart_pb2.HireStaffRequest, uow: UnitOfWork) -> chart_pb2.HireStaffResponse:
        # Who reaches everything may leave the place out: district operators belong to the installation.
        nowhere = request.WhichOneof("place") is None and caller().everywhere
        place = Place() if nowhere else await self._place(request, uow.session)
        hired = self._hired(request.staff_id or ids.new("stf"), as_struct(fields(request), Hiring))
        staff = people.settle(hired, place)
        await self.chart.vacant(self.chart.staff, staff.id, Reason.STAFF_EXISTS, uow.session)
        if staff.subject_hash and await self.chart.by_subject(self.encryption.hashes("subject", request.subject), uow.session):
            raise Conflict(Reason.SUBJECT_IN_USE, "somebody else signs in as this subject")
        await self.chart.staff.unscoped.insert(uow, staff)
        uow.publish(people.changed(staff))
        return chart_pb2.HireStaffResponse(staff_id=staff.id)

    @transactional
    async def MoveStaff(self, request: chart_pb2.MoveStaffRequest, uow: UnitOfWork) -> chart_pb2.MoveStaffResponse:
        staff = await self.chart.staff.load(request.staff_id, session=uow.session, writing=True)
        place = await self._place(request, uow.session)
        moved, events = people.move(staff, place)
        uow.publish(*events)
        await self.chart.staff.unscoped.replace(uow, moved, before=staff)
        former = people.bound_to(
            await self.chart.grants_of([staff.id], uow.session), Place(staff.brand_id, staff.org_unit_id, staff.store_id)
        )
        ended = await self._end(former if events else [], uow)
        return chart_pb2.MoveStaffResponse(staff_id=staff.id, ended_grant_ids=ended)

    @transactional
    async def DismissStaff(self, request: chart_pb2.DismissStaffRequest, uow: UnitOfWork) -> chart_pb2.DismissStaffResponse:
        await self.chart.staff.apply_rule(uow, request.staff_id, people.dismiss)
        ended = await self._end(await self.chart.grants_of([request.staff_id], uow.session), uow)
        return chart_pb2.DismissStaffResponse(staff_id=request.staff_id, ended_grant_ids=ended)

    async def _end(self, grants: list[Grant], uow: UnitOfWork) -> list[str]:
        ended = {grant.id: grant for grant in people.end(grants, uow.at)}
        await self.chart.save(self.chart.grants, [(grant, ended[grant.id]) for grant in grants if grant.id in ended], uow.session)
        return sorted(ended)

    async def BatchGetStaff(self, request: chart_pb2.BatchGetStaffRequest, context: Any) -> chart_pb2.BatchGetStaffResponse:
        rows = [self._shown(row) for row in await self.chart.staff.batch(request.ids)]
        rows += await self._acquainted(set(request.ids) - {row["id"] for row in rows})
        return chart_pb2.BatchGetStaffResponse(staff=rows)

    async def _acquainted(self, ids: set[str]) -> list[Shaped]:
        """Those of these staff who look after the calling consumer or wrote to them, as far as a consumer sees them."""
        consumer_ids = caller().reach.get(ScopeKind.CONSUMER)
        if not consumer_ids or not ids:
            return []
        known = await self.acquainted(consumer_ids, ids)
        rows = [self._shown(row) for row in await self.chart.staff.unscoped.batch(sorted(known))]
        return [{name: row[name] for name in BADGE if name in row} for row in rows]

    async def ListStaff(self, request: chart_pb2.ListStaffRequest, context: Any) -> chart_pb2.ListStaffResponse:
        rows, page = await self.chart.staff.page({"store_id": request.store_id} | NOT_LEFT, request.page, order=[])
        return chart_pb2.ListStaffResponse(staff=[self._shown(row) for row in rows], page=page)

    async def BatchListStaff(self, request: chart_pb2.BatchListStaffRequest, context: Any) -> chart_pb2.BatchListStaffResponse:
        name, store_ids = batch_lists.asked(request, "store_ids")
        found = await self.chart.staff.first_pages({id: {name: id} | NOT_LEFT for id in store_ids}, request.first, order=[])
        shown = {id: ([self._shown(row) for row in rows], page) for id, (rows, page) in found.items()}
        return chart_pb2.BatchListStaffResponse(stores=batch_lists.answered(name, "staff", shown))

    # Roles -----------------------------------------------------------------------------------------------------------

    @transactional
    async def GrantRole(self, request: chart_pb2.GrantRoleRequest, uow: UnitOfWork) -> chart_pb2.GrantRoleResponse:
        asked = as_struct(fields(request), people.Asked)
        staff = await self.chart.staff.load(request.staff_id, session=uow.session, writing=True)
        scope = await self.chart.scope(asked.kind, asked.scope_id, uow.session)
        standing = await self.chart.grants_of([staff.id], uow.session)
        grant = people.grant_role(
            ids.new("grt"), staff, asked.role, scope, held(), standing, uow.at, asked.valid_from, asked.valid_until
        )  # fmt: skip
        # Written even where nothing of the person changes, so that two grants of the same at once meet.
        await self.chart.staff.unscoped.replace(uow, staff)
        return chart_pb2.GrantRoleResponse(grant=await self.chart.grants.unscoped.insert(uow, grant))

    @transactional
    async def RevokeGrant(self, request: chart_pb2.RevokeGrantRequest, uow: UnitOfWork) -> chart_pb2.RevokeGrantResponse:
        grant = await self.chart.grants.load(request.grant_id, session=uow.session, writing=True)
        scope = await self.chart.scope(grant.kind, grant.scope_id, uow.session)
        if not people.may_grant(held(), grant.role, scope):
            raise Denied(Reason.BEYOND_OWN_REACH, "you could not have given this role", grant_id=grant.id)
        after = (people.end([grant], uow.at) or [grant])[0]
        return chart_pb2.RevokeGrantResponse(grant=await self.chart.grants.unscoped.replace(uow, after, before=grant))

    async def ResolveGrants(self, request: chart_pb2.ResolveGrantsRequest, context: Any) -> chart_pb2.ResolveGrantsResponse:
        if request.subject == OPERATOR and self.development:
            everything = access_pb2.Grant(role=access_pb2.ROLE_OPERATOR, kind=access_pb2.SCOPE_KIND_INSTALLATION)
            return chart_pb2.ResolveGrantsResponse(staff_id=f"stf_{OPERATOR}", grants=[everything])
        staff = await self._signed_in(request.subject)
        if staff is None or not staff.active:
            return chart_pb2.ResolveGrantsResponse()
        grants = people.resolve(staff, await self.chart.grants_of([staff.id]), self.clock())[:GRANTS_MAX]
        return chart_pb2.ResolveGrantsResponse(staff_id=staff.id, brand_id=staff.brand_id, grants=[_message(one) for one in grants])

    async def _signed_in(self, subject: str) -> Staff | None:
        """The person of a subject that an identity provider vouched for, or of a staff id."""
        if not subject or len(subject) > SUBJECT_LENGTH_MAX:
            return None
        if found := await self.chart.by_subject(self.encryption.hashes("subject", subject)):
            return found[0]
        row = await self.chart.staff.collection.find_one({"_id": subject})
        return as_struct(row, Staff) if row else None


def _message(held: Held) -> access_pb2.Grant:
    return access_pb2.Grant(role=access_pb2.Role.Value(held.role), kind=access_pb2.ScopeKind.Value(held.kind), id=held.id)
