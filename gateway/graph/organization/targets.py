"""Schema of targets: sales targets, scorecards, and the credit of each order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, order_by_id, org_unit_by_id, outreach_by_id, staff_by_id, store_by_id
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.references import reference
from gateway.schema.rpc_fields import mutation_field, rpc_field
from gateway.schema.types import enum_type, object_type
from quanyu.organization.v1 import targets_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.orders import Order
    from gateway.graph.common import Money, Scenario
    from gateway.graph.member.outreach import Outreach
    from gateway.graph.organization.chart import Brand, OrgUnit, Staff, Store
    from gateway.schema.scalars import DateTime, Long


@enum_type(targets_pb2.Taken)
class Taken: ...


@enum_type(targets_pb2.CreditBasis)
class CreditBasis: ...


@object_type(targets_pb2.Target)
class Target:
    id: ID
    month: str
    scenario: Scenario | None
    online: Money | None
    offline: Money | None
    total: Money | None
    org_unit: OrgUnit | None = reference(by="org_unit_id", loader=org_unit_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@object_type(targets_pb2.Figures)
class Figures:
    orders: Long
    items: Long
    amount: Money | None


@object_type(targets_pb2.ScenarioFigures)
class ScenarioFigures:
    scenario: Scenario
    total: Figures | None
    online: Figures | None
    offline: Figures | None


@object_type(targets_pb2.StoreFigures)
class StoreFigures:
    store: Store | None = reference(by="store_id", loader=store_by_id)
    total: Figures | None
    online: Figures | None
    offline: Figures | None


@object_type(targets_pb2.Attainment)
class Attainment:
    target: Target | None
    online: Figures | None
    offline: Figures | None
    total: Figures | None
    online_ratio: float | None
    offline_ratio: float | None
    total_ratio: float | None


@object_type(targets_pb2.Scorecard)
class Scorecard:
    from_day: str
    until_day: str
    total: Figures | None
    online: Figures | None
    offline: Figures | None
    by_scenario: list[ScenarioFigures]
    by_store: list[StoreFigures]
    attainments: list[Attainment]
    other_currencies: list[str]
    org_unit: OrgUnit | None = reference(by="org_unit_id", loader=org_unit_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@object_type(targets_pb2.Credit)
class Credit:
    id: ID
    basis: CreditBasis | None
    decided_at: DateTime | None
    paid_at: DateTime | None
    scenario: Scenario | None
    taken: Taken | None
    items: Long
    amount: Money | None
    order: Order | None = reference(by="id", loader=order_by_id)
    store: Store | None = reference(by="store_id", loader=store_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id)
    bound_brand: Brand | None = reference(by="bound_brand_id", loader=brand_by_id)
    outreach: Outreach | None = reference(by="outreach_id", loader=outreach_by_id)


@connection_type(targets_pb2.ListCreditsResponse, items="credits")
class CreditConnection:
    nodes: list[Credit]


FIRST_DAY = "The first day, such as 2024-05-01."
SOLD = "The sales in a period of at most 366 days, and how far they meet its targets. Null outside your scope."
LAST_DAY = "The last day, included. The period has at most 366 days."


@input_type(targets_pb2.BatchGetScorecardsRequest)
class Period:
    from_day: str = input_field(description=FIRST_DAY)
    until_day: str = input_field(description=LAST_DAY)
    currency: str | None


@input_type(targets_pb2.GetScorecardRequest)
class ScorecardOf:
    org_unit_id: ID | None
    store_id: ID | None
    brand_id: ID | None
    from_day: str = input_field(description=FIRST_DAY)
    until_day: str = input_field(description=LAST_DAY)
    currency: str | None


class Queries:
    scorecard: Scorecard | None = rpc_field(targets_pb2.GetScorecardRequest, arguments=ScorecardOf, item="scorecard")


@input_type(targets_pb2.SetTargetRequest)
class SetTargetInput:
    idempotency_key: str | None
    org_unit_id: ID
    month: str
    scenario: Scenario | None
    online_minor: Long
    offline_minor: Long


@object_type(targets_pb2.SetTargetResponse)
class SetTargetPayload:
    target: Target


class Mutations:
    set_target: SetTargetPayload | None = mutation_field(SetTargetInput)
