"""Schema of the chart: brands, org units, stores, staff and their grants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import (
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
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import Node, enum_type, object_type
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


@enum_type(chart_pb2.BrandKind)
class BrandKind: ...


@enum_type(chart_pb2.OrgUnitKind)
class OrgUnitKind: ...


@enum_type(chart_pb2.StoreKind)
class StoreKind: ...


@enum_type(access_pb2.Role)
class Role: ...


@enum_type(access_pb2.ScopeKind)
class ScopeKind: ...


@object_type(chart_pb2.Brand, node=("brd_", "rtl_"), loader=brand_by_id)
class Brand(Node):
    id: ID
    kind: BrandKind
    name: Text | None
    zone: str
    currency: str
    franchised: bool
    headquarters: OrgUnit | None = reference(by="headquarters_org_unit_id", loader=org_unit_by_id)
    offers: OfferConnection | None = connection_field(
        catalog_pb2.SearchOffersRequest, by={"brand_id": "id"}, arguments=BrandOffers, loader=offers_of_brand
    )
    orders: OrderConnection | None = connection_field(orders_pb2.ListOrdersRequest, by={"brand_id": "id"}, loader=orders_of_brand)
    budgets: BudgetConnection | None = connection_field(campaigns_pb2.ListBudgetsRequest, by={"brand_id": "id"}, loader=budgets_of_brand)
    coupons: CouponConnection | None = connection_field(
        wallet_pb2.ListCouponsRequest, by={"brand_id": "id"}, arguments=CouponFilter, loader=coupons_of_brand
    )
    relations: RelationConnection | None = connection_field(
        relation_pb2.ListRelationsRequest, by={"brand_id": "id"}, loader=relations_of_brand
    )
    outreaches: OutreachConnection | None = connection_field(
        outreach_pb2.ListOutreachesRequest, by={"brand_id": "id"}, loader=outreaches_of_brand
    )
    scorecard: Scorecard | None = reference(
        by="id",
        loader=scorecard_of_brand,
        arguments=Period,
        description="The sales of the brand's products in all stores, in a period of at most 366 days. Null outside your scope.",
    )


@object_type(chart_pb2.OrgUnit, node="unt_", loader=org_unit_by_id)
class OrgUnit(Node):
    id: ID
    kind: OrgUnitKind
    name: Text | None
    valid_from: str | None
    valid_until: str | None
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    parent: OrgUnit | None = reference(by="parent_id", loader=org_unit_by_id)
    path: list[OrgUnit | None] | None = reference(by="org_unit_ids", loader=org_unit_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    org_units: OrgUnitConnection | None = connection_field(chart_pb2.ListOrgUnitsRequest, by={"org_unit_id": "id"}, loader=org_units_below)
    scorecard: Scorecard | None = reference(by="id", loader=scorecard_of_org_unit, arguments=Period, description=SOLD)


@object_type(chart_pb2.Store, node="str_", loader=store_by_id)
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
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    org_unit: OrgUnit | None = reference(by="org_unit_id", loader=org_unit_by_id)
    staff: StaffConnection | None = connection_field(chart_pb2.ListStaffRequest, by={"store_id": "id"}, loader=staff_of_store)
    tasks: TaskConnection | None = connection_field(
        tasks_pb2.ListTasksRequest, by={"store_id": "id"}, arguments=TaskFilter, loader=tasks_of_store
    )
    stocks: StockConnection | None = connection_field(stock_pb2.ListStocksRequest, by={"store_id": "id"}, loader=stocks_of_store)
    holds: HoldConnection | None = connection_field(stock_pb2.ListHoldsRequest, by={"store_id": "id"}, loader=holds_of_store)
    orders: OrderConnection | None = connection_field(orders_pb2.ListOrdersRequest, by={"store_id": "id"}, loader=orders_of_store)
    outreaches: OutreachConnection | None = connection_field(
        outreach_pb2.ListOutreachesRequest, by={"store_id": "id"}, loader=outreaches_of_store
    )
    credits: CreditConnection | None = connection_field(targets_pb2.ListCreditsRequest, by={"store_id": "id"}, loader=credits_of_store)
    scorecard: Scorecard | None = reference(by="id", loader=scorecard_of_store, arguments=Period, description=SOLD)


@object_type(chart_pb2.Staff, node="stf_", loader=staff_by_id)
class Staff(Node):
    id: ID
    name: str | None
    title: str | None
    active: bool
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    org_unit: OrgUnit | None = reference(by="org_unit_id", loader=org_unit_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    tasks: TaskConnection | None = connection_field(
        tasks_pb2.ListTasksRequest, by={"staff_id": "id"}, arguments=TaskFilter, loader=tasks_of_staff
    )
    clients: ClientConnection | None = connection_field(outreach_pb2.ListClientsRequest, by={"staff_id": "id"}, loader=clients_of_staff)
    outreaches: OutreachConnection | None = connection_field(
        outreach_pb2.ListOutreachesRequest, by={"staff_id": "id"}, loader=outreaches_of_staff
    )
    credits: CreditConnection | None = connection_field(targets_pb2.ListCreditsRequest, by={"staff_id": "id"}, loader=credits_of_staff)


@object_type(chart_pb2.Grant)
class Grant:
    id: ID
    role: Role
    kind: ScopeKind
    scope_id: ID | None
    valid_from: DateTime | None
    valid_until: DateTime | None
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)


@connection_type(chart_pb2.ListOrgUnitsResponse, items="org_units")
class OrgUnitConnection:
    nodes: list[OrgUnit]


@connection_type(chart_pb2.ListStaffResponse, items="staff")
class StaffConnection:
    nodes: list[Staff]


class Queries:
    brand: Brand | None = node_field(brand_by_id)
    org_unit: OrgUnit | None = node_field(org_unit_by_id)
    store: Store | None = node_field(store_by_id)
    staff: Staff | None = node_field(staff_by_id)


@input_type(chart_pb2.CreateBrandRequest)
class CreateBrandInput:
    idempotency_key: str | None
    brand_id: ID | None
    kind: BrandKind
    name: TextInput
    zone: str
    currency: str
    franchised: bool | None


@object_type(chart_pb2.CreateBrandResponse)
class CreateBrandPayload:
    brand: Brand


@input_type(chart_pb2.CreateOrgUnitRequest)
class CreateOrgUnitInput:
    idempotency_key: str | None
    org_unit_id: ID | None
    kind: OrgUnitKind
    parent_id: ID
    name: TextInput
    valid_from: str | None
    valid_until: str | None


@object_type(chart_pb2.CreateOrgUnitResponse)
class CreateOrgUnitPayload:
    org_unit: OrgUnit


@input_type(chart_pb2.MoveOrgUnitRequest)
class MoveOrgUnitInput:
    idempotency_key: str | None
    org_unit_id: ID
    parent_id: ID


@object_type(chart_pb2.MoveOrgUnitResponse)
class MoveOrgUnitPayload:
    org_unit: OrgUnit


@input_type(chart_pb2.CreateStoreRequest)
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


@object_type(chart_pb2.CreateStoreResponse)
class CreateStorePayload:
    store: Store


@input_type(chart_pb2.UpdateStoreRequest)
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


@object_type(chart_pb2.UpdateStoreResponse)
class UpdateStorePayload:
    store: Store


@input_type(chart_pb2.HireStaffRequest)
class HireStaffInput:
    idempotency_key: str | None
    staff_id: ID | None
    store_id: ID | None
    org_unit_id: ID | None
    name: str
    title: str | None
    subject: str | None


@object_type(chart_pb2.HireStaffResponse)
class HireStaffPayload:
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)


@input_type(chart_pb2.MoveStaffRequest)
class MoveStaffInput:
    idempotency_key: str | None
    staff_id: ID
    store_id: ID | None
    org_unit_id: ID | None


@object_type(chart_pb2.MoveStaffResponse)
class MoveStaffPayload:
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)
    ended_grant_ids: list[ID]


@input_type(chart_pb2.DismissStaffRequest)
class DismissStaffInput:
    idempotency_key: str | None
    staff_id: ID


@object_type(chart_pb2.DismissStaffResponse)
class DismissStaffPayload:
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)
    ended_grant_ids: list[ID]


@input_type(chart_pb2.GrantRoleRequest)
class GrantRoleInput:
    idempotency_key: str | None
    staff_id: ID
    role: Role
    kind: ScopeKind
    scope_id: ID | None
    valid_from: DateTime | None
    valid_until: DateTime | None


@object_type(chart_pb2.GrantRoleResponse)
class GrantRolePayload:
    grant: Grant


@input_type(chart_pb2.RevokeGrantRequest)
class RevokeGrantInput:
    idempotency_key: str | None
    grant_id: ID


@object_type(chart_pb2.RevokeGrantResponse)
class RevokeGrantPayload:
    grant: Grant


class Mutations:
    create_brand: CreateBrandPayload | None = mutation_field(CreateBrandInput)
    create_org_unit: CreateOrgUnitPayload | None = mutation_field(CreateOrgUnitInput)
    move_org_unit: MoveOrgUnitPayload | None = mutation_field(MoveOrgUnitInput)
    create_store: CreateStorePayload | None = mutation_field(CreateStoreInput)
    update_store: UpdateStorePayload | None = mutation_field(UpdateStoreInput)
    hire_staff: HireStaffPayload | None = mutation_field(HireStaffInput)
    move_staff: MoveStaffPayload | None = mutation_field(MoveStaffInput)
    dismiss_staff: DismissStaffPayload | None = mutation_field(DismissStaffInput)
    grant_role: GrantRolePayload | None = mutation_field(GrantRoleInput)
    revoke_grant: RevokeGrantPayload | None = mutation_field(RevokeGrantInput)
