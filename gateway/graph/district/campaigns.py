"""Campaigns: what a district stages with its brands, and the budgets of those brands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, budget_by_id, campaign_by_id, district_by_id, participants_of_campaign
from gateway.graph.common import bilingual
from gateway.schema.connections import connection
from gateway.schema.inputs import form
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import Node, view
from quanyu.district.v1 import campaigns_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, MoneyInput, Text
    from gateway.graph.district.places import District
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@view(campaigns_pb2.CouponTerms)
class CouponTerms:
    name: Text = bilingual("What the coupon is called, like 满200减30.")
    value: Money | None
    minimum_spend: Money | None
    validity_days: int


@view(campaigns_pb2.Campaign, node="cmp_", through=campaign_by_id)
class Campaign(Node):
    id: ID
    name: Text = bilingual("What it is called.")
    starts_at: DateTime | None
    ends_at: DateTime | None
    brand_count: Long
    district: District | None = edge(by="district_id", through=district_by_id)
    participants: ParticipantConnection | None = page(
        campaigns_pb2.ListParticipantsRequest, by={"campaign_id": "id"}, first=participants_of_campaign
    )


@view(campaigns_pb2.Participant)
class Participant:
    terms: CouponTerms | None
    campaign: Campaign | None = edge(by="campaign_id", through=campaign_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@view(campaigns_pb2.Budget, node="bdg_", through=budget_by_id)
class Budget(Node):
    id: ID
    terms: CouponTerms | None
    total: Long
    issued: Long
    starts_at: DateTime | None
    ends_at: DateTime | None
    campaign: Campaign | None = edge(by="campaign_id", through=campaign_by_id)
    district: District | None = edge(by="district_id", through=district_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@connection(campaigns_pb2.ListCampaignsResponse, items="campaigns")
class CampaignConnection:
    nodes: list[Campaign]


@connection(campaigns_pb2.ListParticipantsResponse, items="participants")
class ParticipantConnection:
    nodes: list[Participant]


@connection(campaigns_pb2.ListBudgetsResponse, items="budgets")
class BudgetConnection:
    nodes: list[Budget]


@form(campaigns_pb2.ListCampaignsRequest)
class CampaignFilter:
    running_only: bool | None


class Queries:
    campaign: Campaign | None = by_id(campaign_by_id)
    budget: Budget | None = by_id(budget_by_id)


@form(campaigns_pb2.CreateCampaignRequest)
class CreateCampaignInput:
    idempotency_key: str | None
    id: ID | None
    district_id: ID
    name: str
    name_en: str | None
    starts_at: DateTime
    ends_at: DateTime


@view(campaigns_pb2.CreateCampaignResponse)
class CreateCampaignPayload:
    campaign: Campaign


@form(campaigns_pb2.CouponTerms)
class CouponTermsInput:
    name: str
    name_en: str | None
    value: MoneyInput
    minimum_spend: MoneyInput
    validity_days: int


@form(campaigns_pb2.JoinCampaignRequest)
class JoinCampaignInput:
    idempotency_key: str
    campaign_id: ID
    brand_id: ID
    terms: CouponTermsInput
    total: Long


@view(campaigns_pb2.JoinCampaignResponse)
class JoinCampaignPayload:
    budget: Budget


class Mutations:
    create_campaign: CreateCampaignPayload | None = mutation(CreateCampaignInput)
    join_campaign: JoinCampaignPayload | None = mutation(JoinCampaignInput)
