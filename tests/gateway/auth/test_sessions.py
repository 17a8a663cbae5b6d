"""Sessions: local tokens, the grants they resolve to, and the outage of a service that resolves them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from gateway.auth import sessions as sessions_module
from gateway.auth.bearer_tokens import Token, TokenVerifier
from gateway.auth.sessions import Session, SessionResolver
from gateway.rpc.bulkhead import SILENT_SECONDS_MAX
from gateway.rpc.clients import WAITING_SHARE
from quanyu.access.v1 import access_pb2
from quanyu.member.v1.identity_pb2 import ResolveConsumerRequest, ResolveConsumerResponse
from quanyu.organization.v1.chart_pb2 import ResolveGrantsRequest, ResolveGrantsResponse
from services.kit.errors import Denied, NotFound, Overloaded, Unavailable
from services.kit.security.principals import ALGORITHM, generate_key
from services.kit.settings import Settings, SettingsError
from services.local.keys import Keys
from tests.gateway.conftest import Gateway, Open
from tests.gateway.live_gateway import SECONDS_MAX, wait_until
from tests.gateway.silent_services import serve_silent
from tests.gateway.token_issuers import issuer_settings

VIEWER = "{ viewer { consumer { id } staff { id } } }"


@pytest.fixture
def tokens(keys: Keys) -> TokenVerifier:
    return TokenVerifier(Settings(token_keys=keys.tokens_setting()))


@pytest.fixture
def sign(keys: Keys) -> Callable[..., str]:
    def sign(key: Any = None, algorithm: str = ALGORITHM, **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": "quanyu-local", "aud": "quanyu", "sub": "con_1", "iat": now, "exp": now + 60} | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(
            {"alg": algorithm, "kid": keys.tokens["kid"]}, claims, key or OKPKey.import_key(keys.tokens), algorithms=[algorithm]
        )

    return sign


async def test_local_token_is_accepted(tokens: TokenVerifier, sign: Callable[..., str]) -> None:
    assert (await tokens.verify(sign())).subject == "con_1"
    assert (await tokens.verify(sign(clock_offset=3600.0))).clock_offset == 3600.0


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"iss": "unknown"},
        {"aud": "another"},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"iat": int(time.time()) + 3600},
        {"nbf": int(time.time()) + 3600},
        {"clock_offset": "soon"},
        {"key": OKPKey.import_key(generate_key("quanyu-local-1"))},
        {"key": OctKey.import_key("x" * 32), "algorithm": "HS256"},
    ],
    ids=", ".join,
)
async def test_local_token_with_invalid_claims_is_refused(tokens: TokenVerifier, sign: Callable[..., str], changes: dict[str, Any]) -> None:
    with pytest.raises(Denied, match="UNAUTHENTICATED"):
        await tokens.verify(sign(**changes))


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é", "." * 9000, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjb25fMSJ9."])
async def test_malformed_token_is_refused(tokens: TokenVerifier, text: str) -> None:
    with pytest.raises(Denied):
        await tokens.verify(text)


async def test_cached_token_expires(tokens: TokenVerifier, sign: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    token = sign()
    await tokens.verify(token)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(Denied, match="expired"):
        await tokens.verify(token)


def test_local_issuer_in_production_is_refused(keys: Keys) -> None:
    with pytest.raises(SettingsError, match="QUANYU_TOKEN_KEYS"):
        TokenVerifier(Settings(env="production", token_keys=keys.tokens_setting()))
    with pytest.raises(SettingsError, match="QUANYU_TOKEN_KEYS"):
        TokenVerifier(Settings(token_keys="{}"))
    assert TokenVerifier(Settings(env="production")).issuers == {}


@pytest.mark.parametrize("header", ["Bearer x", "Bearer ", "Basic dXNlcjpwYXNz", "x"])
async def test_request_with_invalid_token_is_401(alone: Gateway, header: str) -> None:
    response = await alone.post({"query": "{ __typename }"}, headers={"authorization": header})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "data" not in response.json()
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_anonymous_request_reads_public_fields_only(open_gateway: Open) -> None:
    gateway = await open_gateway("organization")
    assert await gateway.data('{ viewer { staff { id } } brand(id: "brd_none") { id } }') == {"viewer": None, "brand": None}
    answer = await gateway.ask('{ orgUnit(id: "unt_none") { id } }')
    assert answer["data"] == {"orgUnit": None}
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    done = await gateway.ask('mutation { acknowledgeTask(input: {taskId: "tsk_1"}) { __typename } }')
    assert done["data"] == {"acknowledgeTask": None}
    assert done["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_unknown_subject_is_resolved_each_time(open_gateway: Open) -> None:
    gateway = await open_gateway("member", "organization")
    for _ in range(2):
        answer = await gateway.ask('{ viewer { consumer { id } staff { id } } orgUnit(id: "unt_x") { id } }', subject="unknown")
        assert sorted(gateway.called)[-2:] == ["ResolveConsumerRequest", "ResolveGrantsRequest"]
        assert answer["data"] == {"viewer": {"consumer": None, "staff": None}, "orgUnit": None}
        assert answer["errors"][0]["extensions"]["code"] == "NOT_PERMITTED"


async def test_session_is_resolved_once_per_ttl(open_gateway: Open) -> None:
    gateway = await open_gateway("organization")
    body = {"query": "{ viewer { staff { id } } }"}
    await asyncio.gather(*(gateway.post(body, subject="operator") for _ in range(20)))
    assert gateway.called.count("ResolveGrantsRequest") == 1
    await gateway.post(body, subject="operator")
    assert gateway.called.count("ResolveGrantsRequest") == 1
    ttl_seconds = sessions_module.SESSION_TTL_SECONDS
    assert ttl_seconds + sessions_module.RESOLVE_SECONDS_MAX <= 30, "a revoked role has ended by then"
    gateway.app.state.sessions.cache.expire(time.monotonic() + ttl_seconds - 5)
    await gateway.post(body, subject="operator")
    assert gateway.called.count("ResolveGrantsRequest") == 1
    gateway.app.state.sessions.cache.expire(time.monotonic() + ttl_seconds)
    await gateway.post(body, subject="operator")
    assert gateway.called.count("ResolveGrantsRequest") == 2


async def test_request_without_identity_services_is_503(alone: Gateway) -> None:
    mutation = 'mutation { acknowledgeTask(input: {taskId: "tsk_1"}) { __typename } }'
    for query in ("{ __typename }", mutation):
        response = await alone.post({"query": query}, subject="operator")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "data" not in response.json()
        (error,) = response.json()["errors"]
        assert (error["extensions"]["code"], error["extensions"]["retryable"]) == ("IDENTITY_UNAVAILABLE", True)
        assert "Retry with the same idempotencyKey" in error["message"]
    assert (await alone.post({"query": "{ __typename }"})).status_code == 200, "an anonymous request needs no identity service"


async def test_silent_identity_service_is_503_before_deadline(open_gateway: Open) -> None:
    async with serve_silent() as (_, address):
        gateway = await open_gateway(member_address=address, deadline_seconds=1.0)
        response = await gateway.post({"query": "{ __typename }"}, subject="con_anna")
    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"]["code"] == "IDENTITY_UNAVAILABLE"


ISSUER = "https://id.example"
GRANTS = ResolveGrantsResponse(
    staff_id="stf_anna",
    brand_id="brd_a",
    grants=[{"role": access_pb2.ROLE_GUIDE, "kind": access_pb2.SCOPE_KIND_STORE, "id": "str_a"}],
)
CONSUMER = ResolveConsumerResponse(consumer_id="con_anna", consumer_ids=["con_anna"])
AWAY = Unavailable("SERVICE_UNAVAILABLE")
OVERLOADED = Overloaded("SERVICE_OVERLOADED")
SILENT = None


class Resolving:
    """A session resolver in front of stand-ins for organization and member, which return a response, raise a refusal or stay silent."""

    def __init__(self, gateway: Gateway, **provider: Any) -> None:
        settings = Settings(oidc_issuers=issuer_settings(ISSUER, **provider), deadline_seconds=2.0)
        self.sessions = SessionResolver(settings, gateway.app.state.clients)
        self.responses: dict[str, Any] = {"organization": GRANTS, "member": CONSUMER}
        self.called: list[str] = []
        self.cancelled: list[str] = []
        gateway.app.state.clients.call = self.call

    async def call(self, request: Any) -> Any:
        service = {ResolveGrantsRequest: "organization", ResolveConsumerRequest: "member"}[type(request)]
        self.called.append(service)
        response = self.responses[service]
        if response is SILENT:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(service)
                raise
        if isinstance(response, Exception):
            raise response
        return response

    async def resolve(self, subject: str = "anna", issuer: str = ISSUER) -> Session:
        return await self.sessions.resolve(Token(subject, 0.0, time.time() + 60, issuer))


def ids(session: Session) -> tuple[str, str]:
    return session.staff_id, session.consumer_id


@pytest.mark.parametrize(
    ("subject", "issuer", "people", "services"),
    [
        ("con_anna", "", ["staff", "consumers"], ["member"]),
        ("stf_anna", "", ["staff", "consumers"], ["organization"]),
        ("operator", "", ["staff", "consumers"], ["organization"]),
        ("anna", "", ["staff", "consumers"], ["organization", "member"]),
        ("anna", ISSUER, ["staff", "consumers"], ["organization", "member"]),
        ("anna", ISSUER, ["staff"], ["organization"]),
        ("anna", ISSUER, ["consumers"], ["member"]),
        ("stf_anna", ISSUER, ["staff", "consumers"], ["member"]),
    ],
)
async def test_resolution_calls_only_the_services_needed(
    alone: Gateway, subject: str, issuer: str, people: list[str], services: list[str]
) -> None:
    resolving = Resolving(alone, people=people)
    resolving.responses |= dict.fromkeys({"organization", "member"} - set(services), AWAY)
    await resolving.resolve(subject, issuer)
    assert resolving.called == services


@pytest.mark.parametrize("failure", [AWAY, OVERLOADED], ids=["away", "overloaded"])
@pytest.mark.parametrize("service", ["organization", "member"])
@pytest.mark.parametrize("subject", ["anna", "ops"])
async def test_identity_with_one_service_failing_is_unavailable(alone: Gateway, subject: str, service: str, failure: Any) -> None:
    """A person with a part of their grants would have other idempotency keys; so would a configured operator."""
    resolving = Resolving(alone, operators=["ops"])
    resolving.responses[service] = failure
    for _ in range(2):
        with pytest.raises(Unavailable, match="IDENTITY_UNAVAILABLE"):
            await resolving.resolve(subject)
    assert not resolving.sessions.cache
    resolving.responses |= {"organization": GRANTS, "member": CONSUMER}
    assert ids(await resolving.resolve(subject)) == ("stf_anna", "con_anna")


async def test_failed_resolution_cancels_the_other_call(alone: Gateway) -> None:
    resolving = Resolving(alone)
    resolving.responses |= {"organization": SILENT, "member": AWAY}
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(Unavailable, match="IDENTITY_UNAVAILABLE"):
            await resolving.resolve()
    assert resolving.cancelled == ["organization"]


async def test_cached_session_outlives_an_outage(alone: Gateway) -> None:
    resolving = Resolving(alone)
    session = await resolving.resolve()
    resolving.responses |= {"organization": AWAY, "member": AWAY}
    assert await resolving.resolve() is session


async def test_subject_without_consumer_resolves_to_staff(alone: Gateway) -> None:
    resolving = Resolving(alone)
    resolving.responses["member"] = NotFound("CONSUMER_NOT_FOUND")
    assert ids(await resolving.resolve()) == ("stf_anna", "")
    resolving.responses["organization"] = ResolveGrantsResponse()
    assert ids(await resolving.resolve("another")) == ("", "")


async def test_requests_waiting_for_silent_services_are_bounded(open_gateway: Open) -> None:
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    resolving, clients = Resolving(gateway), gateway.app.state.clients
    resolving.responses |= {"organization": SILENT, "member": SILENT}
    waiting_max = clients.bulkheads["organization"].waiting_max
    waiting = [asyncio.create_task(resolving.resolve(f"person {number}")) for number in range(waiting_max + 1)]
    await wait_until(lambda: len(resolving.called) == 2 * len(waiting))
    assert clients.bulkheads["organization"].waiting == waiting_max + 1, "no service has been silent for long"
    clients.bulkheads["organization"].answered_at -= SILENT_SECONDS_MAX
    async with asyncio.timeout(SECONDS_MAX):
        for subject in ("person 0", "another"):
            with pytest.raises(Unavailable, match="IDENTITY_UNAVAILABLE"):
                await resolving.resolve(subject)
    assert len(resolving.called) == 2 * len(waiting)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert {clients.bulkheads[service].waiting for service in ("organization", "member")} == {0}
    for task in list(resolving.sessions.resolving.values()):
        task.cancel()


async def test_session_cache_keeps_the_latest(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 2)
    resolving = Resolving(alone)
    for number in range(4):
        await resolving.resolve(f"stf_{number}", "")
    assert [subject for _, subject, _ in resolving.sessions.cache] == ["stf_2", "stf_3"]
