"""Who asks: from a bearer token to the grants with which the services are called.

Tokens are the local issuer's (`quanyu token`), for development. Grants come from organization and the person's consumer ids from member;
both are kept for at most `KEPT_SECONDS`.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from msgspec import Struct

from gateway.clients import Clients, acting_as
from quanyu.access.v1 import access_pb2
from quanyu.member.v1.identity_pb2 import ResolveConsumerRequest
from quanyu.organization.v1.chart_pb2 import ResolveGrantsRequest
from services.kit.errors import Denied, NotFound
from services.kit.principals import ALGORITHM, INSTALLATION, SERVICE, Grant, Principal
from services.kit.settings import Settings, SettingsError

ISSUER = "quanyu-local"
AUDIENCE = "quanyu"
CLOCK_SKEW_SECONDS = 10
KEPT_SECONDS = 30.0
KEPT_MAX = 10_000
TOKEN_LENGTH_MAX = 8192
CONSUMER = Grant("ROLE_CONSUMER", "SCOPE_KIND_CONSUMER")
GATEWAY = Principal(id="service:gateway", grants=(Grant(SERVICE, INSTALLATION),))


class Token(Struct, frozen=True):
    """What a bearer token states."""

    subject: str
    clock_offset: float
    expires_at: float


class Person(Struct, frozen=True):
    """Who a subject is on this installation; a subject nobody knows is nobody with no grants."""

    staff_id: str = ""
    consumer_id: str = ""
    grants: tuple[Grant, ...] = ()


class Session(Struct, frozen=True):
    """Whoever an operation is for. Without a principal: nobody signed in."""

    principal: Principal | None = None
    staff_id: str = ""
    consumer_id: str = ""


ANONYMOUS = Session()


class Tokens:
    """Checks bearer tokens. One that passed is remembered until it expires."""

    def __init__(self, settings: Settings) -> None:
        try:
            given: Any = msgspec.json.decode(settings.token_keys)
            # Not `import_key_set`: it refuses a set without keys, which is what production has.
            self.keys = KeySet([OKPKey.import_key(key) for key in given["keys"]])
        except (JoseError, msgspec.DecodeError, ValueError, TypeError, KeyError):
            raise SettingsError("QUANYU_TOKEN_KEYS is not a JSON Web Key Set") from None
        self.development = settings.env == "development"
        if self.keys.keys and not self.development:
            raise SettingsError("QUANYU_TOKEN_KEYS names a local issuer, which is for development; unset it in production")
        self.checked: OrderedDict[str, Token] = OrderedDict()

    def check(self, text: str) -> Token:
        """What the token states; `Denied` for anything that is not in order."""
        token = self.checked.get(text)
        if token is None:
            try:
                token = self._decode(text)
            except (JoseError, ValueError, KeyError, TypeError):
                raise _unauthenticated("this token cannot be trusted") from None
            self.checked[text] = token
            if len(self.checked) > KEPT_MAX:
                self.checked.popitem(last=False)
        if token.expires_at + CLOCK_SKEW_SECONDS <= time.time():
            self.checked.pop(text, None)
            raise _unauthenticated("this token has expired")
        return token

    def _decode(self, text: str) -> Token:
        if len(text) > TOKEN_LENGTH_MAX:
            raise ValueError("too long")
        claims: dict[str, Any] = jwt.decode(text, self.keys, algorithms=[ALGORITHM]).claims
        if claims["iss"] != ISSUER or claims["aud"] != AUDIENCE or not isinstance(claims["sub"], str) or not claims["sub"]:
            raise ValueError("another issuer, audience or kind of subject")
        if float(claims.get("nbf", claims.get("iat", 0))) - CLOCK_SKEW_SECONDS > time.time():
            raise ValueError("not valid yet")
        offset = float(claims.get("clock_offset", 0.0))
        if offset and not self.development:
            raise ValueError("only a development installation moves clocks")
        return Token(claims["sub"], offset, float(claims["exp"]))


class Sessions:
    """From an `Authorization` header to a session."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self.tokens, self.clients = Tokens(settings), clients
        self.known: OrderedDict[str, tuple[float, Person]] = OrderedDict()
        self.asked: dict[str, asyncio.Task[Person]] = {}

    async def of(self, authorization: str | None) -> Session:
        """The session; `Denied` (UNAUTHENTICATED) for a token that is not in order, `Unavailable` when nobody can say who it is."""
        if not authorization:
            return ANONYMOUS
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise _unauthenticated("say `Authorization: Bearer …`")
        token = self.tokens.check(text.strip())
        person = await self.person(token.subject)
        principal = Principal(
            id=person.staff_id or person.consumer_id or token.subject, grants=person.grants, clock_offset=token.clock_offset
        )
        return Session(principal, person.staff_id, person.consumer_id)

    async def person(self, subject: str) -> Person:
        """Who the subject is; asked once however many operations wait for it. Nobody is not remembered."""
        kept = self.known.get(subject)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        task = self.asked.get(subject)
        if task is None:
            task = self.asked[subject] = asyncio.create_task(self._resolve(subject))
            task.add_done_callback(lambda _: self.asked.pop(subject, None))
        person = await asyncio.shield(task)
        if person.grants:
            self.known[subject] = (time.monotonic() + KEPT_SECONDS, person)
            self.known.move_to_end(subject)
            if len(self.known) > KEPT_MAX:
                self.known.popitem(last=False)
        return person

    async def _resolve(self, subject: str) -> Person:
        with acting_as(GATEWAY):
            staff, consumer = await asyncio.gather(self._staff(subject), self._consumer(subject))
        return Person(staff.staff_id, consumer.consumer_id, (*staff.grants, *consumer.grants))

    async def _staff(self, subject: str) -> Person:
        if subject.startswith("con_"):
            return Person()
        answer = await self.clients.call(ResolveGrantsRequest(subject=subject))
        grants = (Grant(access_pb2.Role.Name(grant.role), access_pb2.ScopeKind.Name(grant.kind), grant.id) for grant in answer.grants)
        return Person(staff_id=answer.staff_id, grants=tuple(grants))

    async def _consumer(self, subject: str) -> Person:
        if subject.startswith("stf_") or subject == "operator":
            return Person()
        try:
            answer = await self.clients.call(ResolveConsumerRequest(subject=subject))
        except NotFound:
            return Person()
        grants = tuple(msgspec.structs.replace(CONSUMER, id=id) for id in answer.consumer_ids)
        return Person(consumer_id=answer.consumer_id, grants=grants)


def _unauthenticated(message: str) -> Denied:
    return Denied("UNAUTHENTICATED", message)
