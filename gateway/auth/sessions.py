"""Sessions: from an `Authorization` header to a principal with its grants.

Organization knows the grants of staff, member knows the consumers of a person. A token is resolved by the services that may know its
subject, in parallel and within one deadline. When one of them is unavailable, the request fails with one retryable 503
(IDENTITY_UNAVAILABLE): a principal with a part of its grants would see less, and would have other idempotency keys.
"""

import asyncio
import time
from contextlib import ExitStack
from hashlib import sha256
from typing import Any

import msgspec
from cachetools import TTLCache
from google.protobuf.message import Message
from msgspec import Struct

from gateway.auth.bearer_tokens import Token, TokenVerifier, authentication_error
from gateway.rpc.clients import Clients, acting_as
from quanyu.access.v1 import access_pb2
from quanyu.member.v1.identity_pb2 import ResolveConsumerRequest, ResolveConsumerResponse
from quanyu.organization.v1.chart_pb2 import ResolveGrantsRequest, ResolveGrantsResponse
from services.kit.errors import Invalid, NotFound, Refusal, Unavailable
from services.kit.rpc import channel
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal
from services.kit.settings import Settings

SESSIONS_MAX = 10_000
"""This many sessions are cached."""
SESSION_TTL_SECONDS = 25.0
"""A session is cached this long. Together with `RESOLVE_SECONDS_MAX`, a revoked role ends within 30 s."""
RESOLVE_SECONDS_MAX = 5.0
"""A session is resolved within this time, and within half of an operation's time, so that the client gets the 503 before its deadline."""
CONSUMER = Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER")
OPERATOR = Grant("ROLE_OPERATOR", INSTALLATION)
GATEWAY = Principal(id="service:gateway", grants=(Grant(SERVICE, INSTALLATION),))
ORGANIZATION, MEMBER = "organization", "member"
STAFF_PREFIX, CONSUMER_PREFIX, OPERATOR_SUBJECT = "stf_", "con_", "operator"
"""Only the local issuer may state these subjects: a provider's user of that name must not get the grants of another person."""


class Session(Struct, frozen=True):
    """The identity of a request; `principal` is None for an anonymous one. `tenant_id`: the brand that a member of staff works for."""

    principal: Principal | None = None
    staff_id: str = ""
    consumer_id: str = ""
    tenant_id: str = ""


ANONYMOUS = Session()
Identity = tuple[str, str, float]
"""Issuer, subject and clock offset of a token."""


class SessionResolver:
    """Authenticates requests. Sessions with grants are cached; a subject without grants is resolved each time."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self.tokens, self.clients = TokenVerifier(settings), clients
        self.resolve_seconds = min(RESOLVE_SECONDS_MAX, settings.deadline_seconds / 2)
        self.cache: TTLCache[Identity, Session] = TTLCache(SESSIONS_MAX, SESSION_TTL_SECONDS)
        self.resolving: dict[Identity, asyncio.Task[Session]] = {}

    async def authenticate(self, authorization: str | None) -> Session:
        """Returns the session; raises `Denied` (UNAUTHENTICATED) for an invalid token and `Unavailable` when it cannot be resolved."""
        if not authorization:
            return ANONYMOUS
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise authentication_error("Send the token as `Authorization: Bearer <token>`.")
        return await self.resolve(await self.tokens.verify(text.strip()))

    def find_cached(self, authorization: str | None) -> Session | None:
        """Returns the session if it needs no call to a service."""
        if not authorization:
            return ANONYMOUS
        token = self.tokens.find_cached(authorization[7:]) if authorization.startswith("Bearer ") else None
        return self._find(token) if token is not None else None

    async def find_expiry(self, authorization: str | None) -> float | None:
        """Returns the time (Unix seconds) when the token of an authenticated header expires; None without a token."""
        return (await self.tokens.verify(authorization.partition(" ")[2].strip())).expires_at if authorization else None

    async def resolve(self, token: Token) -> Session:
        """Returns the session of a verified token. Concurrent requests of one identity share one resolution."""
        if (session := self._find(token)) is not None:
            return session
        services = self._services_for(token)
        bulkheads = [self.clients.bulkheads[service] for service in services]
        if any(bulkhead.is_full for bulkhead in bulkheads):
            raise _identity_unavailable()
        identity = _identity(token)
        task = self.resolving.get(identity)
        if task is None:
            task = self.resolving[identity] = asyncio.create_task(self._resolve(token, services))
            task.add_done_callback(lambda _: self.resolving.pop(identity, None))
        with ExitStack() as waiting:
            for bulkhead in bulkheads:
                waiting.enter_context(bulkhead)
            return await asyncio.shield(task)

    def _find(self, token: Token) -> Session | None:
        try:
            return self.cache[_identity(token)]
        except KeyError:
            return None

    async def _resolve(self, token: Token, services: tuple[str, ...]) -> Session:
        # A deadline of its own: requests with different deadlines may wait for it.
        channel.deadline.set(time.monotonic() + self.resolve_seconds)
        # At the time of the token's clock: a grant that begins then is valid then.
        with acting_as(msgspec.structs.replace(GATEWAY, clock_offset=token.clock_offset)):
            try:
                async with asyncio.TaskGroup() as group:
                    staff_task = group.create_task(self._resolve_grants(token, services))
                    consumer_task = group.create_task(self._resolve_consumer(token, services))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        session = self._session(token, staff_task.result(), consumer_task.result())
        if session.principal is not None and session.principal.grants:
            self.cache[_identity(token)] = session
        return session

    def _services_for(self, token: Token) -> tuple[str, ...]:
        """Returns the services that may know the subject: by its prefix for the local issuer, by `people` for a provider."""
        subject = token.subject
        is_consumer_id = subject.startswith(CONSUMER_PREFIX)
        is_staff_id = subject.startswith(STAFF_PREFIX) or subject == OPERATOR_SUBJECT
        is_staff, is_consumer = not is_consumer_id, not is_staff_id
        if token.issuer:
            people = self.tokens.provider(token).people
            is_staff, is_consumer = "staff" in people and not (is_staff_id or is_consumer_id), "consumers" in people
        return tuple(service for service, is_needed in ((ORGANIZATION, is_staff), (MEMBER, is_consumer)) if is_needed)

    async def _resolve_grants(self, token: Token, services: tuple[str, ...]) -> ResolveGrantsResponse:
        if ORGANIZATION not in services:
            return ResolveGrantsResponse()
        return await self._call(ORGANIZATION, ResolveGrantsRequest(subject=token.subject))  # type: ignore[no-any-return]

    async def _resolve_consumer(self, token: Token, services: tuple[str, ...]) -> ResolveConsumerResponse:
        if MEMBER not in services:
            return ResolveConsumerResponse()
        try:
            return await self._call(MEMBER, ResolveConsumerRequest(issuer=token.issuer, subject=token.subject))  # type: ignore[no-any-return]
        except (NotFound, Invalid):
            return ResolveConsumerResponse()

    async def _call(self, service: str, request: Message) -> Any:
        bulkhead = self.clients.bulkheads[service]
        try:
            response = await self.clients.call(request)
        except Refusal as refusal:
            bulkhead.record(refusal)
            if refusal.retryable:
                raise _identity_unavailable() from None
            raise
        bulkhead.record()
        return response

    def _session(self, token: Token, staff: ResolveGrantsResponse, consumer: ResolveConsumerResponse) -> Session:
        is_operator = bool(token.issuer) and token.subject in self.tokens.provider(token).operators
        grants = (
            *((OPERATOR,) if is_operator else ()),
            *(Grant(access_pb2.Role.Name(grant.role), access_pb2.ScopeKind.Name(grant.kind), grant.id) for grant in staff.grants),
            *(msgspec.structs.replace(CONSUMER, id=id) for id in consumer.consumer_ids),
        )
        id = staff.staff_id or consumer.consumer_id or _unknown_id(token)
        return Session(Principal(id, grants, clock_offset=token.clock_offset), staff.staff_id, consumer.consumer_id, staff.brand_id)


def _identity(token: Token) -> Identity:
    return token.issuer, token.subject, token.clock_offset


def _identity_unavailable() -> Unavailable:
    message = "Your identity could not be confirmed because a service is unavailable. Retry with the same idempotencyKey."
    return Unavailable("IDENTITY_UNAVAILABLE", message)


def _unknown_id(token: Token) -> str:
    """Returns the principal id of an unknown subject. A provider's subject is hashed, because it may be personal or look like an id."""
    return f"sub_{sha256(f'{token.issuer} {token.subject}'.encode()).hexdigest()[:32]}" if token.issuer else token.subject
