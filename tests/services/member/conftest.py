"""A running member service with two brands, each with a store and a guide, and clients with their grants."""

import secrets
from typing import Any

import pytest

from quanyu.events.v1 import events_pb2
from quanyu.member.v1 import (
    consent_pb2,
    consent_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    outreach_pb2_grpc,
    relation_pb2_grpc,
)
from services.kit.security.principals import Grant

OPERATOR = Grant("ROLE_OPERATOR", "SCOPE_KIND_INSTALLATION")
SERVICE = Grant("ROLE_SERVICE", "SCOPE_KIND_INSTALLATION")


def brand_operator(id: str) -> Grant:
    return Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", id)


def consumer_grants(*ids: str) -> tuple[Grant, ...]:
    return tuple(Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER", id) for id in ids)


def guide_grants(staff_id: str, store_id: str) -> tuple[Grant, ...]:
    return Grant("ROLE_GUIDE", "SCOPE_KIND_STORE", store_id), Grant("ROLE_GUIDE", "SCOPE_KIND_STAFF", staff_id)


def store_manager(store_id: str) -> Grant:
    return Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", store_id)


def new_request_id() -> str:
    return secrets.token_hex(8)


class Client:
    """The service's stubs for one caller."""

    def __init__(self, channel: Any) -> None:
        self.identity = identity_pb2_grpc.IdentityServiceStub(channel)
        self.consent = consent_pb2_grpc.ConsentServiceStub(channel)
        self.relation = relation_pb2_grpc.RelationServiceStub(channel)
        self.outreach = outreach_pb2_grpc.OutreachServiceStub(channel)


class World:
    """A member service with brand 1, its store 1 and guide 1, and brand 2, its store 2 and guide 2."""

    def __init__(self, member: Any) -> None:
        self.member, self.database = member, member.database

    def client(self, *grants: Grant, subject: str = "tester", offset: float = 0.0) -> Client:
        return Client(self.member.channel_as(*grants, subject=subject, offset=offset))

    @property
    def operator(self) -> Client:
        return self.client(OPERATOR, subject="operator")

    async def deliver(self, *events: Any, source: str) -> None:
        """Delivers events and checks that each is applied."""
        deliveries = await self.member.deliver(*events, source=source)
        assert [one.reason for one in deliveries if one.state != events_pb2.DELIVERY_STATE_APPLIED] == []

    async def set_up(self) -> None:
        for number in (1, 2):
            store = events_pb2.StoreChanged(
                store_id=f"str_{number}", brand_id=f"brd_{number}", org_unit_ids=[f"unt_{number}"], zone="Asia/Shanghai", active=True
            )
            staff = events_pb2.StaffChanged(staff_id=f"stf_{number}", brand_id=f"brd_{number}", store_id=f"str_{number}", active=True)
            await self.deliver(
                events_pb2.Event(key=store.store_id, source="organization", store_changed=store),
                events_pb2.Event(key=staff.staff_id, source="organization", staff_changed=staff),
                source="organization",
            )

    async def register(self, phone: str = "", brand_id: str = "brd_1", consumer_id: str = "", **more: Any) -> str:
        """Registers a consumer of the brand with a verified phone number or a new external id; returns the consumer id."""
        kind = identity_pb2.IDENTITY_KIND_PHONE if phone else identity_pb2.IDENTITY_KIND_EXTERNAL
        identity = identity_pb2.NewIdentity(kind=kind, value=phone or new_request_id(), verified=True)
        answer = await self.operator.identity.RegisterConsumer(
            identity_pb2.RegisterConsumerRequest(
                request_id=new_request_id(), consumer_id=consumer_id, brand_id=brand_id, identities=[identity], **more
            )
        )
        return str(answer.consumer_id)

    async def consent(self, consumer_id: str, brand_id: str = "brd_1", granted: bool = True) -> None:
        await self.operator.consent.SetConsent(
            consent_pb2.SetConsentRequest(
                request_id=new_request_id(),
                consumer_id=consumer_id,
                brand_id=brand_id,
                purpose=consent_pb2.PURPOSE_OUTREACH,
                granted=granted,
                touchpoint="TOUCHPOINT_STORE",
            )
        )


@pytest.fixture
async def world(member: Any) -> World:
    world = World(member)
    await world.set_up()
    return world
