"""Consent: what a consumer allows a brand, for which purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, consumer_by_id
from gateway.schema.connections import connection
from gateway.schema.inputs import form, part
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import enumeration, view
from quanyu.member.v1 import consent_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Touchpoint
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Brand
    from gateway.schema.scalars import DateTime


@enumeration(consent_pb2.Purpose)
class Purpose: ...


@view(consent_pb2.Consent)
class Consent:
    id: ID
    purpose: Purpose
    granted: bool
    at: DateTime | None
    touchpoint: Touchpoint | None
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)


@connection(consent_pb2.ListConsentsResponse, consent_pb2.ConsentsOfConsumer, consent_pb2.ListConsentChangesResponse, items="consents")
class ConsentConnection:
    nodes: list[Consent]


@form(consent_pb2.ListConsentsRequest)
class ConsentFilter:
    brand_id: ID | None


@form(consent_pb2.ListConsentChangesRequest)
class ConsentChangesOf:
    consumer_id: ID | None = part(mine="consumer_id")
    brand_id: ID | None


class Queries:
    consent_changes: ConsentConnection | None = page(consent_pb2.ListConsentChangesRequest, arguments=ConsentChangesOf)


@form(consent_pb2.SetConsentRequest)
class SetConsentInput:
    idempotency_key: str | None
    consumer_id: ID | None = part(mine="consumer_id")
    brand_id: ID
    purpose: Purpose
    granted: bool
    touchpoint: Touchpoint
    store_id: ID | None


@view(consent_pb2.SetConsentResponse)
class SetConsentPayload:
    consent: Consent


class Mutations:
    set_consent: SetConsentPayload | None = mutation(SetConsentInput)
