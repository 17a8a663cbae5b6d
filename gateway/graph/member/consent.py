"""Schema of consent: what a consumer allows a brand, for each purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, consumer_by_id
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_field, input_type
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import enum_type, object_type
from quanyu.member.v1 import consent_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Touchpoint
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime


@enum_type(consent_pb2.Purpose)
class Purpose: ...


@object_type(consent_pb2.Consent)
class Consent:
    id: ID
    purpose: Purpose
    granted: bool
    at: DateTime | None
    touchpoint: Touchpoint | None
    consumer: Consumer | None = reference(by="consumer_id", loader=consumer_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)


@connection_type(consent_pb2.ListConsentsResponse, consent_pb2.ConsentsOfConsumer, consent_pb2.ListConsentChangesResponse, items="consents")
class ConsentConnection:
    nodes: list[Consent]


@input_type(consent_pb2.ListConsentsRequest)
class ConsentFilter:
    brand_id: ID | None


@input_type(consent_pb2.ListConsentChangesRequest)
class ConsentChangesOf:
    consumer_id: ID | None = input_field(session_default="consumer_id")
    brand_id: ID | None


class Queries:
    consent_changes: ConsentConnection | None = connection_field(consent_pb2.ListConsentChangesRequest, arguments=ConsentChangesOf)


@input_type(consent_pb2.SetConsentRequest)
class SetConsentInput:
    idempotency_key: str | None
    consumer_id: ID | None = input_field(session_default="consumer_id")
    brand_id: ID
    purpose: Purpose
    granted: bool
    touchpoint: Touchpoint
    store_id: ID | None


@object_type(consent_pb2.SetConsentResponse)
class SetConsentPayload:
    consent: Consent


class Mutations:
    set_consent: SetConsentPayload | None = mutation_field(SetConsentInput)
