"""Brands, the units of their organisation, stores and the people who work there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import (
    brand_by_id,
    budgets_of_brand,
    clients_of_staff,
    coupons_of_brand,
    credits_of_staff,
    credits_of_store,
    holds_of_store,
    offers_of_brand,
    orders_of_brand,
    orders_of_store,
    org_unit_by_id,
    org_units_below,
    outreaches_of_brand,
    outreaches_of_staff,
    outreaches_of_store,
    relations_of_brand,
    scorecard_of_brand,
    scorecard_of_org_unit,
    scorecard_of_store,
    staff_by_id,
    staff_of_store,
    stocks_of_store,
    store_by_id,
    tasks_of_staff,
    tasks_of_store,
)
from gateway.graph.commerce.catalog import BrandOffers
from gateway.graph.district.wallet import CouponFilter
from gateway.graph.organization.targets import SOLD, Period
from gateway.graph.organization.tasks import TaskFilter
from gateway.schema.connections import connection
from gateway.schema.inputs import form
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import Node, enumeration, view
from quanyu.access.v1 import access_pb2
from quanyu.commerce.v1 import catalog_pb2, orders_pb2, stock_pb2
from quanyu.district.v1 import campaigns_pb2, wallet_pb2
from quanyu.member.v1 import outreach_pb2, relation_pb2
from quanyu.organization.v1 import chart_pb2, targets_pb2, tasks_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.catalog import OfferConnection
    from gateway.graph.commerce.orders import OrderConnection
    from gateway.graph.commerce.stock import HoldConnection, StockConnection
    from gateway.graph.common import Point, PointInput, Text, TextInput
    from gateway.graph.district.campaigns import BudgetConnection
    from gateway.graph.district.wallet import CouponConnection
    from gateway.graph.member.outreach import ClientConnection, OutreachConnection
    from gateway.graph.member.relation import RelationConnection
    from gateway.graph.organization.targets import CreditConnection, Scorecard
    from gateway.graph.organization.tasks import TaskConnection
    from gateway.schema.scalars import DateTime


@enumeration(chart_pb2.BrandKind)
class BrandKind: ...


@enumeration(chart_pb2.OrgUnitKind)
class OrgUnitKind: ...


@enumeration(chart_pb2.StoreKind)
class StoreKind: ...


@enumeration(access_pb2.Role)
class Role: ...


@enumeration(access_pb2.ScopeKind)
class ScopeKind: ...


@view(chart_pb2.Brand, node=("brd_", "rtl_"), through=brand_by_id)
class Brand(Node):
    id: ID
    kind: BrandKind
    name: Text | None
    zone: str
    currency: str
    franchised: bool
    headquarters: OrgUnit | None = edge(by="headquarters_org_unit_id", through=org_unit_by_id)
    offers: OfferConnection | None = page(
        catalog_pb2.SearchOffersRequest, by={"brand_id": "id"}, arguments=BrandOffers, first=offers_of_brand
    )
    orders: OrderConnection | None = page(orders_pb2.ListOrdersRequest, by={"brand_id": "id"}, first=orders_of_brand)
    budgets: BudgetConnection | None = page(campaigns_pb2.ListBudgetsRequest, by={"brand_id": "id"}, first=budgets_of_brand)
    coupons: CouponConnection | None = page(
        wallet_pb2.ListCouponsRequest, by={"brand_id": "id"}, arguments=CouponFilter, first=coupons_of_brand
    )
    relations: RelationConnection | None = page(relation_pb2.ListRelationsRequest, by={"brand_id": "id"}, first=relations_of_brand)
    outreaches: OutreachConnection | None = page(outreach_pb2.ListOutreachesRequest, by={"brand_id": "id"}, first=outreaches_of_brand)
    scorecard: Scorecard | None = edge(
        by="id",
        through=scorecard_of_brand,
        arguments=Period,
        description="What was sold of its products, wherever that was, in a period of at most 366 days; null outside the caller's scope.",
    )


@view(chart_pb2.OrgUnit, node="unt_", through=org_unit_by_id)
class OrgUnit(Node):
    id: ID
    kind: OrgUnitKind
    name: Text | None
    valid_from: str | None
    valid_until: str | None
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    parent: OrgUnit | None = edge(by="parent_id", through=org_unit_by_id)
    path: list[OrgUnit | None] | None = edge(by="org_unit_ids", through=org_unit_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    org_units: OrgUnitConnection | None = page(chart_pb2.ListOrgUnitsRequest, by={"org_unit_id": "id"}, first=org_units_below)
    scorecard: Scorecard | None = edge(by="id", through=scorecard_of_org_unit, arguments=Period, description=SOLD)


@view(chart_pb2.Store, node="str_", through=store_by_id)
class Store(Node):
    id: ID
    kind: StoreKind
    name: Text | None
    position: Point | None
    zone: str
    opens_minute: int
    closes_minute: int
    delivers: bool
    active: bool
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    org_unit: OrgUnit | None = edge(by="org_unit_id", through=org_unit_by_id)
    staff: StaffConnection | None = page(chart_pb2.ListStaffRequest, by={"store_id": "id"}, first=staff_of_store)
    tasks: TaskConnection | None = page(tasks_pb2.ListTasksRequest, by={"store_id": "id"}, arguments=TaskFilter, first=tasks_of_store)
    stocks: StockConnection | None = page(stock_pb2.ListStocksRequest, by={"store_id": "id"}, first=stocks_of_store)
    holds: HoldConnection | None = page(stock_pb2.ListHoldsRequest, by={"store_id": "id"}, first=holds_of_store)
    orders: OrderConnection | None = page(orders_pb2.ListOrdersRequest, by={"store_id": "id"}, first=orders_of_store)
    outreaches: OutreachConnection | None = page(outreach_pb2.ListOutreachesRequest, by={"store_id": "id"}, first=outreaches_of_store)
    credits: CreditConnection | None = page(targets_pb2.ListCreditsRequest, by={"store_id": "id"}, first=credits_of_store)
    scorecard: Scorecard | None = edge(by="id", through=scorecard_of_store, arguments=Period, description=SOLD)


@view(chart_pb2.Staff, node="stf_", through=staff_by_id)
class Staff(Node):
    id: ID
    name: str | None
    title: str | None
    active: bool
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    org_unit: OrgUnit | None = edge(by="org_unit_id", through=org_unit_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    tasks: TaskConnection | None = page(tasks_pb2.ListTasksRequest, by={"staff_id": "id"}, arguments=TaskFilter, first=tasks_of_staff)
    clients: ClientConnection | None = page(outreach_pb2.ListClientsRequest, by={"staff_id": "id"}, first=clients_of_staff)
    outreaches: OutreachConnection | None = page(outreach_pb2.ListOutreachesRequest, by={"staff_id": "id"}, first=outreaches_of_staff)
    credits: CreditConnection | None = page(targets_pb2.ListCreditsRequest, by={"staff_id": "id"}, first=credits_of_staff)


@view(chart_pb2.Grant)
class Grant:
    id: ID
    role: Role
    kind: ScopeKind
    scope_id: ID | None
    valid_from: DateTime | None
    valid_until: DateTime | None
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)


@connection(chart_pb2.ListOrgUnitsResponse, items="org_units")
class OrgUnitConnection:
    nodes: list[OrgUnit]


@connection(chart_pb2.ListStaffResponse, items="staff")
class StaffConnection:
    nodes: list[Staff]


class Queries:
    brand: Brand | None = by_id(brand_by_id)
    org_unit: OrgUnit | None = by_id(org_unit_by_id)
    store: Store | None = by_id(store_by_id)
    staff: Staff | None = by_id(staff_by_id)


@form(chart_pb2.CreateBrandRequest)
class CreateBrandInput:
    idempotency_key: str | None
    brand_id: ID | None
    kind: BrandKind
    name: TextInput
    zone: str
    currency: str
    franchised: bool | None


@view(chart_pb2.CreateBrandResponse)
class CreateBrandPayload:
    brand: Brand


@form(chart_pb2.CreateOrgUnitRequest)
class CreateOrgUnitInput:
    idempotency_key: str | None
    org_unit_id: ID | None
    kind: OrgUnitKind
    parent_id: ID
    name: TextInput
    valid_from: str | None
    valid_until: str | None


@view(chart_pb2.CreateOrgUnitResponse)
class CreateOrgUnitPayload:
    org_unit: OrgUnit


@form(chart_pb2.MoveOrgUnitRequest)
class MoveOrgUnitInput:
    idempotency_key: str | None
    org_unit_id: ID
    parent_id: ID


@view(chart_pb2.MoveOrgUnitResponse)
class MoveOrgUnitPayload:
    org_unit: OrgUnit


@form(chart_pb2.CreateStoreRequest)
class CreateStoreInput:
    idempotency_key: str | None
    store_id: ID | None
    kind: StoreKind
    parent_id: ID
    name: TextInput
    position: PointInput
    zone: str | None
    opens_minute: int | None
    closes_minute: int | None
    delivers: bool | None


@view(chart_pb2.CreateStoreResponse)
class CreateStorePayload:
    store: Store


@form(chart_pb2.UpdateStoreRequest)
class UpdateStoreInput:
    idempotency_key: str | None
    store_id: ID
    name: TextInput | None
    position: PointInput | None
    zone: str | None
    opens_minute: int | None
    closes_minute: int | None
    delivers: bool | None
    active: bool | None


@view(chart_pb2.UpdateStoreResponse)
class UpdateStorePayload:
    store: Store


@form(chart_pb2.HireStaffRequest)
class HireStaffInput:
    idempotency_key: str | None
    staff_id: ID | None
    store_id: ID | None
    org_unit_id: ID | None
    name: str
    title: str | None
    subject: str | None


@view(chart_pb2.HireStaffResponse)
class HireStaffPayload:
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)


@form(chart_pb2.MoveStaffRequest)
class MoveStaffInput:
    idempotency_key: str | None
    staff_id: ID
    store_id: ID | None
    org_unit_id: ID | None


@view(chart_pb2.MoveStaffResponse)
class MoveStaffPayload:
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)
    ended_grant_ids: list[ID]


@form(chart_pb2.DismissStaffRequest)
class DismissStaffInput:
    idempotency_key: str | None
    staff_id: ID


@view(chart_pb2.DismissStaffResponse)
class DismissStaffPayload:
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)
    ended_grant_ids: list[ID]


@form(chart_pb2.GrantRoleRequest)
class GrantRoleInput:
    idempotency_key: str | None
    staff_id: ID
    role: Role
    kind: ScopeKind
    scope_id: ID | None
    valid_from: DateTime | None
    valid_until: DateTime | None


@view(chart_pb2.GrantRoleResponse)
class GrantRolePayload:
    grant: Grant


@form(chart_pb2.RevokeGrantRequest)
class RevokeGrantInput:
    idempotency_key: str | None
    grant_id: ID


@view(chart_pb2.RevokeGrantResponse)
class RevokeGrantPayload:
    grant: Grant


class Mutations:
    create_brand: CreateBrandPayload | None = mutation(CreateBrandInput)
    create_org_unit: CreateOrgUnitPayload | None = mutation(CreateOrgUnitInput)
    move_org_unit: MoveOrgUnitPayload | None = mutation(MoveOrgUnitInput)
    create_store: CreateStorePayload | None = mutation(CreateStoreInput)
    update_store: UpdateStorePayload | None = mutation(UpdateStoreInput)
    hire_staff: HireStaffPayload | None = mutation(HireStaffInput)
    move_staff: MoveStaffPayload | None = mutation(MoveStaffInput)
    dismiss_staff: DismissStaffPayload | None = mutation(DismissStaffInput)
    grant_role: GrantRolePayload | None = mutation(GrantRoleInput)
    revoke_grant: RevokeGrantPayload | None = mutation(RevokeGrantInput)
