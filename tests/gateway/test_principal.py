"""Who asks: tokens, grants, and what is told to the services."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from gateway import principal
from gateway.tokens import Tokens
from services.kit.errors import Denied
from services.kit.principals import ALGORITHM, generate_key
from services.kit.settings import Settings, SettingsError
from services.local.keys import Keys
from tests.gateway.conftest import Gateway, Open

VIEWER = "{ viewer { consumer { id } staff { id } } }"


@pytest.fixture
def tokens(keys: Keys) -> Tokens:
    return Tokens(Settings(token_keys=keys.tokens_setting()))


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


async def test_a_token_of_the_local_issuer_is_believed(tokens: Tokens, sign: Callable[..., str]) -> None:
    assert (await tokens.check(sign())).subject == "con_1"
    assert (await tokens.check(sign(clock_offset=3600.0))).clock_offset == 3600.0


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
async def test_any_other_is_refused(tokens: Tokens, sign: Callable[..., str], changes: dict[str, Any]) -> None:
    with pytest.raises(Denied, match="UNAUTHENTICATED"):
        await tokens.check(sign(**changes))


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é", "." * 9000, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjb25fMSJ9."])
async def test_what_is_no_token_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(Denied):
        await tokens.check(text)


async def test_a_token_that_passed_expires_all_the_same(tokens: Tokens, sign: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    token = sign()
    await tokens.check(token)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(Denied, match="expired"):
        await tokens.check(token)


def test_a_local_issuer_is_for_development(keys: Keys) -> None:
    with pytest.raises(SettingsError, match="QUANYU_TOKEN_KEYS"):
        Tokens(Settings(env="production", token_keys=keys.tokens_setting()))
    with pytest.raises(SettingsError, match="QUANYU_TOKEN_KEYS"):
        Tokens(Settings(token_keys="{}"))
    assert Tokens(Settings(env="production")).issuers == {}


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
    later = time.monotonic() + principal.KEPT_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await gateway.post(body, who="operator")
    assert gateway.called.count("ResolveGrantsRequest") == 2


async def test_without_those_who_know_nobody_is_somebody(alone: Gateway) -> None:
    response = await alone.post({"query": "{ __typename }"}, who="operator")
    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"]["retryable"] is True
    assert "retry-after" in response.headers
