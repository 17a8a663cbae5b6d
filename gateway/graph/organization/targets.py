"""Targets, scorecards and to whom an order is credited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, order_by_id, org_unit_by_id, outreach_by_id, staff_by_id, store_by_id
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.references import edge
from gateway.schema.rpc_fields import ask, mutation
from gateway.schema.types import enumeration, view
from quanyu.organization.v1 import targets_pb2

if TYPE_CHECKING:
    from gateway.graph.commerce.orders import Order
    from gateway.graph.common import Money, Scenario
    from gateway.graph.member.outreach import Outreach
    from gateway.graph.organization.chart import Brand, OrgUnit, Staff, Store
    from gateway.schema.scalars import DateTime, Long


@enumeration(targets_pb2.Taken)
class Taken: ...


@enumeration(targets_pb2.CreditBasis)
class CreditBasis: ...


@view(targets_pb2.Target)
class Target:
    id: ID
    month: str
    scenario: Scenario | None
    online: Money | None
    offline: Money | None
    total: Money | None
    org_unit: OrgUnit | None = edge(by="org_unit_id", through=org_unit_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@view(targets_pb2.Figures)
class Figures:
    orders: Long
    items: Long
    amount: Money | None


@view(targets_pb2.ScenarioFigures)
class ScenarioFigures:
    scenario: Scenario
    total: Figures | None
    online: Figures | None
    offline: Figures | None


@view(targets_pb2.StoreFigures)
class StoreFigures:
    store: Store | None = edge(by="store_id", through=store_by_id)
    total: Figures | None
    online: Figures | None
    offline: Figures | None


@view(targets_pb2.Attainment)
class Attainment:
    target: Target | None
    online: Figures | None
    offline: Figures | None
    total: Figures | None
    online_ratio: float | None
    offline_ratio: float | None
    total_ratio: float | None


@view(targets_pb2.Scorecard)
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
    org_unit: OrgUnit | None = edge(by="org_unit_id", through=org_unit_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@view(targets_pb2.Credit)
class Credit:
    id: ID
    basis: CreditBasis | None
    decided_at: DateTime | None
    paid_at: DateTime | None
    scenario: Scenario | None
    taken: Taken | None
    items: Long
    amount: Money | None
    order: Order | None = edge(by="id", through=order_by_id)
    store: Store | None = edge(by="store_id", through=store_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    staff: Staff | None = edge(by="staff_id", through=staff_by_id)
    bound_brand: Brand | None = edge(by="bound_brand_id", through=brand_by_id)
    outreach: Outreach | None = edge(by="outreach_id", through=outreach_by_id)


@connection(targets_pb2.ListCreditsResponse, items="credits")
class CreditConnection:
    nodes: list[Credit]


FIRST_DAY = "The first day, like 2024-05-01."
SOLD = "What was sold in a period of at most 366 days, and how its targets stand; null outside the caller's scope."
LAST_DAY = "The last day, included; at most 366 days after the first."


@form(targets_pb2.BatchGetScorecardsRequest)
class Period:
    from_day: str = part(description=FIRST_DAY)
    until_day: str = part(description=LAST_DAY)
    currency: str | None


@form(targets_pb2.GetScorecardRequest)
class ScorecardOf:
    org_unit_id: ID | None
    store_id: ID | None
    brand_id: ID | None
    from_day: str = part(description=FIRST_DAY)
    until_day: str = part(description=LAST_DAY)
    currency: str | None


class Queries:
    scorecard: Scorecard | None = ask(targets_pb2.GetScorecardRequest, arguments=ScorecardOf, item="scorecard")


@form(targets_pb2.SetTargetRequest)
class SetTargetInput:
    idempotency_key: str | None
    org_unit_id: ID
    month: str
    scenario: Scenario | None
    online_minor: Long
    offline_minor: Long


@view(targets_pb2.SetTargetResponse)
class SetTargetPayload:
    target: Target


class Mutations:
    set_target: SetTargetPayload | None = mutation(SetTargetInput)
