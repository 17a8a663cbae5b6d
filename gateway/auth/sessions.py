"""Who asks: from a bearer token to the grants with which the services are called.

Grants come from organization and the person's consumer ids from member; both are kept for at most `KEPT_SECONDS`. Whom one of them knows
goes on with what it says while the other is away or says nothing.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine
from hashlib import sha256
from typing import Any

import msgspec
from google.protobuf.message import Message
from msgspec import Struct

from gateway.auth.bearer_tokens import Token, TokenVerifier, authentication_error
from gateway.clients import Clients, acting_as
from quanyu.access.v1 import access_pb2
from quanyu.member.v1.identity_pb2 import ResolveConsumerRequest
from quanyu.organization.v1.chart_pb2 import ResolveGrantsRequest
from services.kit import channel
from services.kit.errors import Invalid, NotFound, Refusal, Unavailable
from services.kit.principals import INSTALLATION, SERVICE, Grant, Principal
from services.kit.settings import Settings

KEPT_SECONDS = 30.0
KEPT_IN_PART_SECONDS = 2.0
"""What is known of somebody while one of those who were asked is away."""
OTHER_SECONDS_MAX = 1.0
"""For which that one is waited for, once the other knows them."""
KEPT_MAX = 10_000
CONSUMER = Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER")
OPERATOR = Grant("ROLE_OPERATOR", INSTALLATION)
GATEWAY = Principal(id="service:gateway", grants=(Grant(SERVICE, INSTALLATION),))
ORGANIZATION, MEMBER = "organization", "member"
SUITE_SUBJECT = "operator"
SUITE_IDS = ("stf_", "con_")
"""Subjects that only the suite's own tokens may have: to a provider's user of such a name they would lend somebody's place."""


class Person(Struct, frozen=True):
    """Who a subject is on this installation; a subject nobody knows is nobody with no grants."""

    staff_id: str = ""
    consumer_id: str = ""
    grants: tuple[Grant, ...] = ()
    tenant_id: str = ""
    whole: bool = True
    """Whether all who were asked have answered."""
    certain: bool = True
    """Whether organization has, whose name for them is theirs before member's is."""


class Session(Struct, frozen=True):
    """Whoever an operation is for. Without a principal: nobody signed in."""

    principal: Principal | None = None
    staff_id: str = ""
    consumer_id: str = ""
    tenant_id: str = ""
    """Of whoever works for one."""
    certain: bool = True
    """Whether the principal is who it will be: keys of mutations are theirs under that id."""


ANONYMOUS = Session()
Who = tuple[str, str, float]
"""Issuer, subject, and how far their clock is moved."""


class SessionResolver:
    """From an `Authorization` header to a session."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self.tokens, self.clients, self.deadline_seconds = TokenVerifier(settings), clients, settings.deadline_seconds
        # Sessions and not people: the same principal again is signed for in a fraction of a microsecond.
        self.known: OrderedDict[Who, tuple[float, Session]] = OrderedDict()
        self.asked: dict[Who, asyncio.Task[Session]] = {}

    async def authenticate(self, authorization: str | None) -> Session:
        """The session; `Denied` (UNAUTHENTICATED) for a token that is not in order, `Unavailable` when nobody can say who it is."""
        if not authorization:
            return ANONYMOUS
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise authentication_error("Send the token as `Authorization: Bearer <token>`.")
        return await self.resolve(await self.tokens.verify(text.strip()))

    def find_cached(self, authorization: str | None) -> Session | None:
        """The session where it is known already, and nobody is to be asked."""
        if not authorization:
            return ANONYMOUS
        token = self.tokens.find_cached(authorization[7:]) if authorization.startswith("Bearer ") else None
        kept = self.known.get((token.issuer, token.subject, token.clock_offset)) if token is not None else None
        return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    async def find_expiry(self, authorization: str | None) -> float | None:
        """When the token of a header that `authenticate` accepted expires (seconds since 1970); None: there is none."""
        return (await self.tokens.verify(authorization.partition(" ")[2].strip())).expires_at if authorization else None

    async def resolve(self, token: Token) -> Session:
        """Whose token it is; asked once however many operations wait for it. Nobody is not remembered."""
        who = (token.issuer, token.subject, token.clock_offset)
        kept = self.known.get(who)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        task, services = self.asked.get(who), self._asked_of(token)
        if task is None:
            task = self.asked[who] = asyncio.create_task(self._resolve(who, token))
            task.add_done_callback(lambda _: self.asked.pop(who, None))
        elif any(map(self.clients.full, services)):
            raise _overloaded()
        for service in services:
            self.clients.count(service)
        try:
            return await asyncio.shield(task)
        finally:
            for service in services:
                self.clients.waiting[service] -= 1

    async def _resolve(self, who: Who, token: Token) -> Session:
        asked_at = time.monotonic()
        # Its own time, whoever waits for it: a subscription asks again long after its beginning's has run out.
        channel.deadline.set(asked_at + self.deadline_seconds)
        # By the bearer's clock: a grant that begins at their hour is one at that hour.
        with acting_as(msgspec.structs.replace(GATEWAY, clock_offset=token.clock_offset)):
            person = await self._person(token)
        id = person.staff_id or person.consumer_id or _nobody(token)
        principal = Principal(id, person.grants, clock_offset=token.clock_offset)
        session = Session(principal, person.staff_id, person.consumer_id, person.tenant_id, person.certain)
        if person.grants:
            self.known[who] = (asked_at + KEPT_SECONDS if person.whole else time.monotonic() + KEPT_IN_PART_SECONDS, session)
            self.known.move_to_end(who)
            if len(self.known) > KEPT_MAX:
                self.known.popitem(last=False)
        return session

    def _asked_of(self, token: Token) -> tuple[str, ...]:
        """Which services may know whose token it is: of the suite's own, whose subject is a consumer's id, a staff id or the operator; of a
        provider's, those for whose people it vouches."""
        subject = token.subject
        staff, consumer = not subject.startswith("con_"), not subject.startswith("stf_") and subject != SUITE_SUBJECT
        if token.issuer:
            people = self.tokens.provider(token).people
            staff = "staff" in people and not subject.startswith(SUITE_IDS) and subject != SUITE_SUBJECT
            consumer = "consumers" in people
        return tuple(service for service, asked in ((ORGANIZATION, staff), (MEMBER, consumer)) if asked)

    async def _person(self, token: Token) -> Person:
        asked = self._asked_of(token)
        operator = bool(token.issuer) and token.subject in self.tokens.provider(token).operators
        return await _of_both(
            self._staff(token.subject) if ORGANIZATION in asked else _no_one(),
            self._consumer(token.issuer, token.subject) if MEMBER in asked else _no_one(),
            (OPERATOR,) if operator else (),
        )

    async def _staff(self, subject: str) -> Person:
        answer = await self._said(ORGANIZATION, ResolveGrantsRequest(subject=subject))
        grants = (Grant(access_pb2.Role.Name(grant.role), access_pb2.ScopeKind.Name(grant.kind), grant.id) for grant in answer.grants)
        return Person(staff_id=answer.staff_id, grants=tuple(grants), tenant_id=answer.brand_id)

    async def _consumer(self, issuer: str, subject: str) -> Person:
        try:
            answer = await self._said(MEMBER, ResolveConsumerRequest(issuer=issuer, subject=subject))
        except (NotFound, Invalid):
            return Person()
        grants = tuple(msgspec.structs.replace(CONSUMER, id=id) for id in answer.consumer_ids)
        return Person(consumer_id=answer.consumer_id, grants=grants)

    async def _said(self, service: str, request: Message) -> Any:
        """What a service says. Whoever waits to be known is counted already; one for which too many wait is as good as away."""
        if self.clients.full(service):
            raise _overloaded()
        try:
            answer = await self.clients.call(request)
        except Refusal as refusal:
            self.clients.heard(service, refusal)
            raise
        self.clients.heard(service)
        return answer


def _overloaded() -> Unavailable:
    return Unavailable("SERVICE_OVERLOADED", "too many wait to hear who they are; try again")


async def _no_one() -> Person:
    return Person()


async def _of_both(
    asking_staff: Coroutine[Any, Any, Person], asking_consumer: Coroutine[Any, Any, Person], own: tuple[Grant, ...] = ()
) -> Person:
    """The person that two services were asked for, with grants of their `own` before others. Whoever has some or is known to one of them
    goes on without what the other would say, when that one is away, or silent for `OTHER_SECONDS_MAX`."""
    staff, consumer = both = asyncio.create_task(asking_staff), asyncio.create_task(asking_consumer)
    try:
        if not own:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(both, timeout=OTHER_SECONDS_MAX if own or any(map(_knows, both)) else None)
        known = own or any(map(_knows, both))
        heard = [_NOT_HEARD if known and _is_away(each) else await each for each in both]
    finally:
        staff.cancel()
        consumer.cancel()
    works, shops = heard
    grants = (*own, *works.grants, *shops.grants)
    return Person(works.staff_id, shops.consumer_id, grants, works.tenant_id, works.whole and shops.whole, works.certain)


_NOT_HEARD = Person(whole=False, certain=False)


def _knows(asked: asyncio.Task[Person]) -> bool:
    if not asked.done() or asked.exception() is not None:
        return False
    person = asked.result()
    return bool(person.staff_id or person.consumer_id or person.grants)


def _is_away(asked: asyncio.Task[Person]) -> bool:
    return not asked.done() or isinstance(asked.exception(), Unavailable)


def _nobody(token: Token) -> str:
    """The id of a principal whom nobody here knows. A provider's subject may be personal, and must not pass for an id of ours."""
    return f"sub_{sha256(f'{token.issuer} {token.subject}'.encode()).hexdigest()[:32]}" if token.issuer else token.subject
