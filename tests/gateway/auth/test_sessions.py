"""Who asks: tokens, grants, and what is told to the services."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from gateway.asked import Asked as AskedFor
from gateway.auth import sessions as sessions_module
from gateway.auth.bearer_tokens import Token, TokenVerifier
from gateway.auth.sessions import OPERATOR, Person, Session, SessionResolver
from gateway.clients import SILENT_SECONDS_MAX, WAITING_SHARE
from gateway.operations import Operations, Ready
from quanyu.access.v1 import access_pb2
from quanyu.member.v1.identity_pb2 import ResolveConsumerRequest, ResolveConsumerResponse
from quanyu.organization.v1.chart_pb2 import ResolveGrantsRequest, ResolveGrantsResponse
from services.kit.errors import Denied, NotFound, Unavailable
from services.kit.principals import ALGORITHM, generate_key
from services.kit.settings import Settings, SettingsError
from services.local.keys import Keys
from tests.gateway.conftest import Gateway, Open
from tests.gateway.issuing import trusting
from tests.gateway.serving import SECONDS_MAX, until

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


async def test_a_token_of_the_local_issuer_is_believed(tokens: TokenVerifier, sign: Callable[..., str]) -> None:
    assert (await tokens.verify(sign())).subject == "con_1"
    assert (await tokens.verify(sign(clock_offset=3600.0))).clock_offset == 3600.0


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"iss": "somebody"},
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
async def test_any_other_is_refused(tokens: TokenVerifier, sign: Callable[..., str], changes: dict[str, Any]) -> None:
    with pytest.raises(Denied, match="UNAUTHENTICATED"):
        await tokens.verify(sign(**changes))


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é", "." * 9000, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjb25fMSJ9."])
async def test_what_is_no_token_is_refused(tokens: TokenVerifier, text: str) -> None:
    with pytest.raises(Denied):
        await tokens.verify(text)


async def test_a_token_that_passed_expires_all_the_same(
    tokens: TokenVerifier, sign: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sign()
    await tokens.verify(token)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(Denied, match="expired"):
        await tokens.verify(token)


def test_a_local_issuer_is_for_development(keys: Keys) -> None:
    with pytest.raises(SettingsError, match="QUANYU_TOKEN_KEYS"):
        TokenVerifier(Settings(env="production", token_keys=keys.tokens_setting()))
    with pytest.raises(SettingsError, match="QUANYU_TOKEN_KEYS"):
        TokenVerifier(Settings(token_keys="{}"))
    assert TokenVerifier(Settings(env="production")).issuers == {}


@pytest.mark.parametrize("header", ["Bearer x", "Bearer ", "Basic dXNlcjpwYXNz", "x"])
async def test_a_bad_token_is_401_without_data(alone: Gateway, header: str) -> None:
    response = await alone.post({"query": "{ __typename }"}, headers={"authorization": header})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "data" not in response.json()
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_nobody_signed_in_reaches_what_is_public(open_gateway: Open) -> None:
    gateway = await open_gateway("organization")
    assert await gateway.data('{ viewer { staff { id } } brand(id: "brd_none") { id } }') == {"viewer": None, "brand": None}
    answer = await gateway.ask('{ unit(id: "unt_none") { id } }')
    assert answer["data"] == {"unit": None}
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    done = await gateway.ask('mutation { acknowledgeTask(input: {taskId: "tsk_1"}) { __typename } }')
    assert done["data"] == {"acknowledgeTask": None}
    assert done["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_nobody_known_has_no_grants_and_is_not_remembered(open_gateway: Open) -> None:
    gateway = await open_gateway("member", "organization")
    for _ in range(2):
        answer = await gateway.ask('{ viewer { consumer { id } staff { id } } unit(id: "unt_x") { id } }', who="somebody")
        assert sorted(gateway.called)[-2:] == ["ResolveConsumerRequest", "ResolveGrantsRequest"]
        assert answer["data"] == {"viewer": {"consumer": None, "staff": None}, "unit": None}
        assert answer["errors"][0]["extensions"]["code"] == "NOT_PERMITTED"


async def test_grants_are_asked_for_once_however_many_wait_and_for_thirty_seconds(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await open_gateway("organization")
    body = {"query": "{ viewer { staff { id } } }"}
    await asyncio.gather(*(gateway.post(body, who="operator") for _ in range(20)))
    assert gateway.called.count("ResolveGrantsRequest") == 1
    await gateway.post(body, who="operator")
    assert gateway.called.count("ResolveGrantsRequest") == 1
    assert sessions_module.KEPT_SECONDS <= 30, "a role that was taken away is gone by then"
    later = time.monotonic() + sessions_module.KEPT_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await gateway.post(body, who="operator")
    assert gateway.called.count("ResolveGrantsRequest") == 2


async def test_without_those_who_know_nobody_is_somebody(alone: Gateway) -> None:
    response = await alone.post({"query": "{ __typename }"}, who="operator")
    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"]["retryable"] is True
    assert "retry-after" in response.headers


ISSUER = "https://id.example"
GRANTS = ResolveGrantsResponse(
    staff_id="stf_anna",
    brand_id="brd_a",
    grants=[{"role": access_pb2.ROLE_GUIDE, "kind": access_pb2.SCOPE_KIND_STORE, "id": "str_a"}],
)
CONSUMER = ResolveConsumerResponse(consumer_id="con_anna", consumer_ids=["con_anna"])
ASKED_TO_READ = AskedFor("mutation { markRead(input: {outreachIds: []}) { __typename } }")
AWAY = Unavailable("SERVICE_UNAVAILABLE")
SILENT = None


class Asked:
    """Sessions of a provider's people, before an organization and a member that say this: an answer, a refusal, or nothing at all."""

    def __init__(self, gateway: Gateway, **stated: Any) -> None:
        self.sessions = SessionResolver(Settings(oidc_issuers=trusting(ISSUER, **stated)), gateway.app.state.clients)
        self.organization: Any = GRANTS
        self.member: Any = CONSUMER
        self.times = 0
        gateway.app.state.clients.call = self.call

    async def call(self, request: Any) -> Any:
        self.times += 1
        said = {ResolveGrantsRequest: self.organization, ResolveConsumerRequest: self.member}[type(request)]
        if said is SILENT:
            await asyncio.Event().wait()
        if isinstance(said, Exception):
            raise said
        return said

    async def session(self, subject: str = "anna") -> Session:
        return await self.sessions.resolve(Token(subject, 0.0, time.time() + 60, ISSUER))


def ids(session: Session) -> tuple[str, str]:
    return session.staff_id, session.consumer_id


@pytest.mark.parametrize("what", [AWAY, SILENT], ids=["away", "silent"])
async def test_whom_one_service_knows_goes_on_without_the_other(alone: Gateway, monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    """Staff while member is away or says nothing, those who shop while organization does, and whoever runs the installation."""
    monkeypatch.setattr(sessions_module, "OTHER_SECONDS_MAX", 0.05)
    asked = Asked(alone, operators=["ops"])
    new_here = ResolveGrantsResponse(staff_id="stf_anna")
    for organization, member, whole in (
        (GRANTS, what, ("stf_anna", "")),
        (new_here, what, ("stf_anna", "")),
        (what, CONSUMER, ("", "con_anna")),
    ):
        asked.sessions.known.clear()
        asked.organization, asked.member = organization, member
        assert ids(await asked.session()) == whole
    asked.organization, asked.member = what, what
    operator = await asked.session("ops")
    assert operator.principal is not None
    assert [grant.role for grant in operator.principal.grants] == ["ROLE_OPERATOR"]


async def test_what_is_known_in_part_is_asked_anew_soon(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(alone)
    asked.organization = AWAY
    assert [ids(await asked.session()) for _ in range(3)] == [("", "con_anna")] * 3
    assert asked.times == 2, "who is away is not asked by each operation"
    asked.organization = GRANTS
    later = time.monotonic() + sessions_module.KEPT_IN_PART_SECONDS + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert sessions_module.KEPT_IN_PART_SECONDS < sessions_module.KEPT_SECONDS / 5
    assert ids(await asked.session()) == ("stf_anna", "con_anna")


async def test_whom_nobody_knows_is_nobody_only_when_all_have_said_so(alone: Gateway) -> None:
    asked = Asked(alone)
    asked.organization, asked.member = ResolveGrantsResponse(), AWAY
    with pytest.raises(Unavailable):
        await asked.session()
    asked.organization, asked.member = AWAY, NotFound("CONSUMER_NOT_FOUND")
    with pytest.raises(Unavailable):
        await asked.session()
    asked.organization = ResolveGrantsResponse()
    assert ids(await asked.session()) == ("", "")


@pytest.mark.parametrize("shopping", [False, True], ids=["nobody else comes", "some are known meanwhile"])
async def test_those_of_whom_nobody_says_who_they_are_take_no_place_of_others(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch, shopping: bool
) -> None:
    monkeypatch.setattr(sessions_module, "OTHER_SECONDS_MAX", 0.05)
    gateway = await open_gateway(operations_max=4 * WAITING_SHARE)
    asked, clients = Asked(gateway), gateway.app.state.clients
    asked.organization = asked.member = SILENT
    waiting = [asyncio.create_task(asked.session(f"person {number}")) for number in range(clients.waiting_max)]
    waiting.append(asyncio.create_task(asked.session("one more")))
    await until(lambda: asked.times == 2 * len(waiting))
    assert clients.waiting["organization"] == clients.waiting_max + 1, "so far nobody was silent for long"
    for service in ("organization", "member"):
        clients.heard_at[service] -= SILENT_SECONDS_MAX
    if shopping:
        asked.member = CONSUMER
        clients.heard_at["member"] = time.monotonic()
        assert ids(await asked.session("anna")) == ("", "con_anna"), "one who is overrun is as good as away"
        asked.member = NotFound("CONSUMER_NOT_FOUND")
    async with asyncio.timeout(SECONDS_MAX):
        for subject in ("person 0", "somebody"):
            with pytest.raises(Unavailable, match="SERVICE_OVERLOADED"):
                await asked.session(subject)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert {clients.waiting[service] for service in ("organization", "member")} == {0}
    for resolving in list(asked.sessions.asked.values()):
        resolving.cancel()


async def test_whose_name_is_not_certain_changes_nothing(alone: Gateway) -> None:
    """While organization is away, its staff are known by their name as consumers: a key would be carried out once for each name."""
    asked = Asked(alone)
    operations = Operations(alone.app.state.executor, asked.sessions, alone.app.state.clients, Settings())
    mutation = operations.ready(ASKED_TO_READ, ())
    query = operations.ready(msgspec.structs.replace(ASKED_TO_READ, query="{ viewer { __typename } }"), ())
    assert isinstance(mutation, Ready) and isinstance(query, Ready)
    for organization, certain in ((GRANTS, True), (AWAY, False)):
        asked.sessions.known.clear()
        asked.organization = organization
        session = await asked.session()
        assert session.certain is certain
        assert (await operations.run(query, session)).status == 200
        if not certain:
            with pytest.raises(Unavailable, match="IDENTITY_UNCERTAIN"):
                await operations.run(mutation, session)
    asked.organization, asked.member = GRANTS, AWAY
    asked.sessions.known.clear()
    assert (await asked.session()).certain, "staff are who they are, whether or not they shop"


async def test_so_many_are_kept_and_those_who_came_last(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def person(token: Token) -> Person:
        return Person(staff_id=token.subject, grants=(OPERATOR,))

    sessions: SessionResolver = alone.app.state.sessions
    monkeypatch.setattr(sessions_module, "KEPT_MAX", 2)
    monkeypatch.setattr(sessions, "_person", person)
    for number in range(4):
        await sessions.resolve(Token(f"stf_{number}", 0.0, time.time() + 60))
    assert [subject for _, subject, _ in sessions.known] == ["stf_2", "stf_3"]
