"""Schema of campaigns: a district's campaigns, the participating brands and their budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, budget_by_id, campaign_by_id, district_by_id, participants_of_campaign
from gateway.graph.common import bilingual_field
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import Node, object_type
from quanyu.district.v1 import campaigns_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, MoneyInput, Text
    from gateway.graph.district.places import District
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@object_type(campaigns_pb2.CouponTerms)
class CouponTerms:
    name: Text = bilingual_field("The name of the coupon, such as 满200减30.")
    value: Money | None
    minimum_spend: Money | None
    validity_days: int


@object_type(campaigns_pb2.Campaign, node="cmp_", loader=campaign_by_id)
class Campaign(Node):
    id: ID
    name: Text = bilingual_field("The name.")
    starts_at: DateTime | None
    ends_at: DateTime | None
    brand_count: Long
    district: District | None = reference(by="district_id", loader=district_by_id)
    participants: ParticipantConnection | None = connection_field(
        campaigns_pb2.ListParticipantsRequest, by={"campaign_id": "id"}, loader=participants_of_campaign
    )


@object_type(campaigns_pb2.Participant)
class Participant:
    terms: CouponTerms | None
    campaign: Campaign | None = reference(by="campaign_id", loader=campaign_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@object_type(campaigns_pb2.Budget, node="bdg_", loader=budget_by_id)
class Budget(Node):
    id: ID
    terms: CouponTerms | None
    total: Long
    issued: Long
    starts_at: DateTime | None
    ends_at: DateTime | None
    campaign: Campaign | None = reference(by="campaign_id", loader=campaign_by_id)
    district: District | None = reference(by="district_id", loader=district_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@connection_type(campaigns_pb2.ListCampaignsResponse, items="campaigns")
class CampaignConnection:
    nodes: list[Campaign]


@connection_type(campaigns_pb2.ListParticipantsResponse, items="participants")
class ParticipantConnection:
    nodes: list[Participant]


@connection_type(campaigns_pb2.ListBudgetsResponse, items="budgets")
class BudgetConnection:
    nodes: list[Budget]


@input_type(campaigns_pb2.ListCampaignsRequest)
class CampaignFilter:
    running_only: bool | None


class Queries:
    campaign: Campaign | None = node_field(campaign_by_id)
    budget: Budget | None = node_field(budget_by_id)


@input_type(campaigns_pb2.CreateCampaignRequest)
class CreateCampaignInput:
    idempotency_key: str | None
    id: ID | None
    district_id: ID
    name: str
    name_en: str | None
    starts_at: DateTime
    ends_at: DateTime


@object_type(campaigns_pb2.CreateCampaignResponse)
class CreateCampaignPayload:
    campaign: Campaign


@input_type(campaigns_pb2.CouponTerms)
class CouponTermsInput:
    name: str
    name_en: str | None
    value: MoneyInput
    minimum_spend: MoneyInput
    validity_days: int


@input_type(campaigns_pb2.JoinCampaignRequest)
class JoinCampaignInput:
    idempotency_key: str
    campaign_id: ID
    brand_id: ID
    terms: CouponTermsInput
    total: Long


@object_type(campaigns_pb2.JoinCampaignResponse)
class JoinCampaignPayload:
    budget: Budget


class Mutations:
    create_campaign: CreateCampaignPayload | None = mutation_field(CreateCampaignInput)
    join_campaign: JoinCampaignPayload | None = mutation_field(JoinCampaignInput)
