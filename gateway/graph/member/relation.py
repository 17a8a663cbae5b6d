"""The consumer asset: for each person and brand a stage and a closeness, with the events they follow from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import binding_by_consumer, brand_by_id, consumer_by_id, interactions_of_relation, transitions_of_relation
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.references import edge
from gateway.schema.rpc_fields import ask, mutation, page
from gateway.schema.types import enumeration, view
from quanyu.member.v1 import relation_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, Scenario, Touchpoint
    from gateway.graph.member.identity import Consumer
    from gateway.graph.member.outreach import Binding
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@enumeration(relation_pb2.Stage)
class Stage: ...


@enumeration(relation_pb2.Direction)
class Direction: ...


@enumeration(relation_pb2.InteractionKind)
class InteractionKind: ...


@view(relation_pb2.Cause)
class Cause:
    interaction_id: ID
    kind: InteractionKind | None
    ref: str | None


@view(relation_pb2.Relation)
class Relation:
    id: ID
    stage: Stage | None
    stage_since: DateTime | None
    lapses_at: DateTime | None
    closeness: float
    last: Cause | None
    last_at: DateTime | None
    first_at: DateTime | None
    interaction_count: Long
    order_count: Long
    spent: list[Money]
    transition_count: Long
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    binding: Binding | None = edge(
        by="consumer_id",
        through=binding_by_consumer,
        using={"brand_id": "brand_id"},
        description="Which guide looks after the consumer for this brand.",
    )
    transitions: TransitionConnection | None = page(
        relation_pb2.ListTransitionsRequest,
        by={"consumer_id": "consumer_id", "brand_id": "brand_id"},
        first=transitions_of_relation,
        key="id",
    )
    interactions: InteractionConnection | None = page(
        relation_pb2.ListInteractionsRequest,
        by={"consumer_id": "consumer_id", "brand_id": "brand_id"},
        first=interactions_of_relation,
        key="id",
    )


@view(relation_pb2.Transition)
class Transition:
    id: ID
    from_stage: Stage | None
    to_stage: Stage | None
    at: DateTime | None
    direction: Direction | None
    cause: Cause | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@view(relation_pb2.Interaction)
class Interaction:
    id: ID
    kind: InteractionKind
    touchpoint: Touchpoint | None
    scenario: Scenario | None
    at: DateTime | None
    ref: str | None
    paid: Money | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@connection(relation_pb2.ListRelationsResponse, relation_pb2.RelationsOfConsumer, relation_pb2.RelationsOfBrand, items="relations")
class RelationConnection:
    nodes: list[Relation]


@connection(relation_pb2.ListTransitionsResponse, relation_pb2.TransitionsOfRelation, items="transitions")
class TransitionConnection:
    nodes: list[Transition]


@connection(relation_pb2.ListInteractionsResponse, relation_pb2.InteractionsOfRelation, items="interactions")
class InteractionConnection:
    nodes: list[Interaction]


@form(relation_pb2.GetRelationRequest)
class RelationOf:
    consumer_id: ID | None = part(mine="consumer_id")
    brand_id: ID


@form(relation_pb2.ListInteractionsRequest)
class InteractionsOf:
    consumer_id: ID | None = part(mine="consumer_id")
    brand_id: ID | None


class Queries:
    relation: Relation | None = ask(relation_pb2.GetRelationRequest, arguments=RelationOf, item="relation")
    interactions: InteractionConnection | None = page(relation_pb2.ListInteractionsRequest, arguments=InteractionsOf)


@form(relation_pb2.RecordInteractionRequest)
class RecordInteractionInput:
    idempotency_key: str | None
    consumer_id: ID
    brand_id: ID
    kind: InteractionKind
    touchpoint: Touchpoint
    scenario: Scenario | None
    at: DateTime | None
    ref: str | None
    store_id: ID | None


@view(relation_pb2.RecordInteractionResponse)
class RecordInteractionPayload:
    interaction_id: ID
    stage: Stage | None


class Mutations:
    record_interaction: RecordInteractionPayload | None = mutation(RecordInteractionInput)
