"""Schema of relations: the stage and closeness of each person to each brand, with the interactions they follow from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import binding_by_consumer, brand_by_id, consumer_by_id, interactions_of_relation, transitions_of_relation
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field, rpc_field
from gateway.schema.types import enum_type, object_type
from quanyu.member.v1 import relation_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Money, Scenario, Touchpoint
    from gateway.graph.member.identity import Consumer
    from gateway.graph.member.outreach import Binding
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime, Long


@enum_type(relation_pb2.Stage)
class Stage: ...


@enum_type(relation_pb2.Direction)
class Direction: ...


@enum_type(relation_pb2.InteractionKind)
class InteractionKind: ...


@object_type(relation_pb2.Cause)
class Cause:
    interaction_id: ID
    kind: InteractionKind | None
    ref: str | None


@object_type(relation_pb2.Relation)
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
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    binding: Binding | None = reference(
        by="consumer_id",
        loader=binding_by_consumer,
        parameters={"brand_id": "brand_id"},
        description="The binding of the consumer to a guide of this brand.",
    )
    transitions: TransitionConnection | None = connection_field(
        relation_pb2.ListTransitionsRequest,
        by={"consumer_id": "consumer_id", "brand_id": "brand_id"},
        loader=transitions_of_relation,
        key="id",
    )
    interactions: InteractionConnection | None = connection_field(
        relation_pb2.ListInteractionsRequest,
        by={"consumer_id": "consumer_id", "brand_id": "brand_id"},
        loader=interactions_of_relation,
        key="id",
    )


@object_type(relation_pb2.Transition)
class Transition:
    id: ID
    from_stage: Stage | None
    to_stage: Stage | None
    at: DateTime | None
    direction: Direction | None
    cause: Cause | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@object_type(relation_pb2.Interaction)
class Interaction:
    id: ID
    kind: InteractionKind
    touchpoint: Touchpoint | None
    scenario: Scenario | None
    at: DateTime | None
    ref: str | None
    paid: Money | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@connection_type(relation_pb2.ListRelationsResponse, relation_pb2.RelationsOfConsumer, relation_pb2.RelationsOfBrand, items="relations")
class RelationConnection:
    nodes: list[Relation]


@connection_type(relation_pb2.ListTransitionsResponse, relation_pb2.TransitionsOfRelation, items="transitions")
class TransitionConnection:
    nodes: list[Transition]


@connection_type(relation_pb2.ListInteractionsResponse, relation_pb2.InteractionsOfRelation, items="interactions")
class InteractionConnection:
    nodes: list[Interaction]


@input_type(relation_pb2.GetRelationRequest)
class RelationOf:
    consumer_id: ID | None = input_field(session_default="consumer_id")
    brand_id: ID


@input_type(relation_pb2.ListInteractionsRequest)
class InteractionsOf:
    consumer_id: ID | None = input_field(session_default="consumer_id")
    brand_id: ID | None


class Queries:
    relation: Relation | None = rpc_field(relation_pb2.GetRelationRequest, arguments=RelationOf, item="relation")
    interactions: InteractionConnection | None = connection_field(relation_pb2.ListInteractionsRequest, arguments=InteractionsOf)


@input_type(relation_pb2.RecordInteractionRequest)
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


@object_type(relation_pb2.RecordInteractionResponse)
class RecordInteractionPayload:
    interaction_id: ID
    stage: Stage | None


class Mutations:
    record_interaction: RecordInteractionPayload | None = mutation_field(RecordInteractionInput)
