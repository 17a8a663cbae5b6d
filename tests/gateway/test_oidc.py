"""Tokens of a real identity provider (npm `oidc-provider`): who is believed, and what happens while it changes keys or is away."""

import asyncio
import hmac
import json
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from gateway import oidc, tokens
from gateway.principal import Sessions
from gateway.tokens import Tokens
from services.kit.errors import Denied, Unavailable
from services.kit.settings import Settings, SettingsError
from services.local.keys import new_keys
from services.local.mongod import free_port
from tests.gateway.conftest import Gateway, Open
from tests.gateway.world import NEAR, do
from tests.judges.conftest import node
from tests.judges.provider import Provider, providing

__all__ = ["node"]


@cache
def rsa(bits: int = 2048) -> RSAKey:
    """A key of whoever is no provider; slow to make."""
    with warnings.catch_warnings(action="ignore"):
        return RSAKey.generate_key(bits, {"kid": "k"})


VIEWER = "{ viewer { consumer { id } staff { id } } }"


class Clock:
    """The monotonic clock as the gateway's keys see it, with what a test adds."""

    def __init__(self) -> None:
        self.added = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.added


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(oidc, "time", clock)
    return clock


@pytest.fixture(scope="module")
def process(node: str) -> Iterator[Provider]:
    with providing(node, free_port()) as provider:
        yield provider


@pytest.fixture
def provider(process: Provider) -> Provider:
    process.told("start")
    return process


def trusting(*issuers: str, **changes: Any) -> str:
    """QUANYU_OIDC_ISSUERS that names these, for consumers only but the first."""
    others = {"people": ["consumers"]}
    stated = [{"issuer": issuer, "audience": "quanyu"} | (others if ahead else {}) | changes for ahead, issuer in enumerate(issuers)]
    return json.dumps(stated)


def believing(*issuers: str, **changes: Any) -> Tokens:
    return Tokens(Settings(oidc_issuers=trusting(*issuers, **changes)))


def forged(provider: Provider, key: Any, algorithm: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token as the provider makes them, signed by another key."""
    now = int(time.time())
    claims = {"iss": provider.issuer, "aud": "quanyu", "sub": "anna", "iat": now, "exp": now + 60} | changes
    return jwt.encode({"alg": algorithm, "typ": "at+jwt"} | (header or {}), claims, key, algorithms=[algorithm])


def unsigned(provider: Provider, **header: Any) -> str:
    parts = ({"alg": "none", "typ": "at+jwt"} | header, {"iss": provider.issuer, "aud": "quanyu", "sub": "anna", "exp": time.time() + 60})
    return ".".join(_base64(json.dumps(part).encode()) for part in parts) + "."


def _base64(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_of_the_provider_is_believed(provider: Provider, algorithm: str) -> None:
    for changes in ({}, {"jwks_uri": f"{provider.issuer}/jwks"}):
        believed = believing(provider.issuer, algorithms=[algorithm], **changes)
        token = await believed.check(await provider.token("anna", algorithm=algorithm))
        assert (token.issuer, token.subject) == (provider.issuer, "anna")
    assert (await believed.check(await provider.signed_in("mia", algorithm=algorithm))).subject == "mia"


async def test_people_are_who_the_services_know_them_as(provider: Provider, open_gateway: Open) -> None:
    gateway = await open_gateway("member", "organization", oidc_issuers=trusting(provider.issuer, operators=["ops"]))
    await settle(gateway, provider.issuer)

    async def viewer(client: str) -> Any:
        headers = {"authorization": f"Bearer {await provider.token(client)}"}
        answer = await gateway.post({"query": VIEWER}, headers=headers)
        return answer.json()["data"]["viewer"]

    assert await viewer("guo") == {"consumer": None, "staff": {"id": "stf_guo"}}
    assert await viewer("anna") == {"consumer": {"id": "con_anna"}, "staff": None}
    person = {"authorization": f"Bearer {await provider.signed_in('mia')}"}
    assert (await gateway.post({"query": VIEWER}, headers=person)).json()["data"]["viewer"]["consumer"] == {"id": "con_mia"}
    operator = {"authorization": f"Bearer {await provider.token('ops')}"}
    asked = {"brandId": "brd_b", "kind": "BRAND", "name": {"zh": "乙"}, "zone": "Asia/Shanghai", "currency": "CNY"}
    query = "mutation ($input: CreateBrandInput!) { createBrand(input: $input) { __typename } }"
    answer = await gateway.post({"query": query, "variables": {"input": asked}}, headers=operator)
    assert answer.json()["data"] == {"createBrand": {"__typename": "CreateBrandPayload"}}


async def settle(gateway: Gateway, issuer: str) -> None:
    """A brand where guo works, and whom anna and mia shop with."""
    given = {"brandId": "brd_a", "kind": "BRAND", "name": {"zh": "甲"}, "zone": "Asia/Shanghai", "currency": "CNY"}
    await do(gateway, "createBrand", given)
    await do(gateway, "createStore", {"storeId": "str_a", "kind": "STORE", "parentId": "unt_brd_a", "name": {"zh": "甲"}, "position": NEAR})
    await do(gateway, "hireStaff", {"staffId": "stf_guo", "storeId": "str_a", "name": "Guo", "subject": "guo"})
    await do(gateway, "grantRole", {"staffId": "stf_guo", "role": "GUIDE", "kind": "STORE", "scopeId": "str_a"})
    for name in ("anna", "mia"):
        identity = {"kind": "OIDC_SUBJECT", "namespace": issuer, "value": name, "verified": True}
        given = {"consumerId": f"con_{name}", "brandId": "brd_a", "identities": [identity]}
        await do(gateway, "registerConsumer", given)


async def test_a_provider_lends_nobody_a_place_of_the_suites_own(provider: Provider, open_gateway: Open) -> None:
    """Its user who is called like a member of staff, a consumer or the operator is nobody; so is staff where it has no say."""
    gateway = await open_gateway("member", "organization", oidc_issuers=trusting(provider.issuer))
    await settle(gateway, provider.issuer)
    for login in ("stf_guo", "con_anna", "operator"):
        session = await gateway.app.state.sessions.of(f"Bearer {await provider.signed_in(login)}")
        assert (session.staff_id, session.consumer_id, session.principal.grants) == ("", "", ())
        assert session.principal.id.startswith("sub_") and login not in session.principal.id
    consumers_only = Settings(oidc_issuers=trusting(provider.issuer, people=["consumers"]))
    gateway.called.clear()
    session = await Sessions(consumers_only, gateway.app.state.clients).of(f"Bearer {await provider.token('guo')}")
    assert session.principal is not None and session.principal.grants == ()
    assert gateway.called == ["ResolveConsumerRequest"]


async def test_staff_go_on_while_nobody_can_say_whether_they_shop_too(provider: Provider, open_gateway: Open) -> None:
    gateway = await open_gateway("organization", oidc_issuers=trusting(provider.issuer), deadline_seconds=2.0)
    await do(
        gateway, "createBrand", {"brandId": "brd_a", "kind": "BRAND", "name": {"zh": "甲"}, "zone": "Asia/Shanghai", "currency": "CNY"}
    )
    await do(gateway, "hireStaff", {"staffId": "stf_guo", "unitId": "unt_brd_a", "name": "Guo", "subject": "guo"})
    await do(gateway, "grantRole", {"staffId": "stf_guo", "role": "BRAND_OPERATOR", "kind": "BRAND", "scopeId": "brd_a"})
    sessions = gateway.app.state.sessions
    session = await sessions.of(f"Bearer {await provider.token('guo')}")
    assert session.staff_id == "stf_guo" and session.principal.grants
    assert {who[1] for who in sessions.known} == {"operator"}
    with pytest.raises(Unavailable):
        await sessions.of(f"Bearer {await provider.token('anna')}")


async def test_what_the_provider_did_not_say_for_us_is_refused(node: str, provider: Provider) -> None:
    believed = believing(provider.issuer)
    published = {one["alg"]: one for one in await provider.published()}
    kid = {"kid": published["RS256"]["kid"]}
    foreign, public = rsa(), RSAKey.import_key(published["RS256"])
    real = await provider.token("anna")
    head, body, signature = real.split(".")
    pem = public.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    shared = unsigned(provider, alg="HS256", **kid).rstrip(".")
    refused = {
        "another audience": await provider.token("anna", audience="another"),
        "an algorithm that is not allowed": await provider.token("anna", algorithm="EdDSA"),
        "a foreign key": forged(provider, foreign, header=kid),
        "a foreign key that the token brings along": forged(provider, foreign, header=kid | {"jwk": foreign.as_dict(private=False)}),
        "a foreign key under no name": forged(provider, foreign),
        "the public key as a shared secret": f"{shared}.{_base64(hmac.digest(pem, shared.encode(), 'sha256'))}",
        "another algorithm's key": forged(provider, ECKey.generate_key("P-256"), "ES256", kid),
        "no signature": unsigned(provider, **kid),
        "a signature of no algorithm": unsigned(provider, **kid) + signature,
        "a changed body": f"{head}.{body[:-4]}AAAA.{signature}",
        "another header": f"{unsigned(provider, alg='RS256', **kid).split('.')[0]}.{body}.{signature}",
        "another type": forged(provider, foreign, header=kid | {"typ": "logout+jwt"}),
        "a nested one": ".".join([_base64(b"[" * 2000)] * 3),
    }
    with providing(node, free_port()) as another:
        refused["another issuer"] = await another.token("anna")
        refused["another issuer under this one's name"] = forged(provider, foreign, header={"kid": (await another.published())[0]["kid"]})
        assert (await believing(another.issuer).check(refused["another issuer"])).issuer == another.issuer
    for what, text in refused.items():
        with pytest.raises(Denied):
            pytest.fail(f"{what} is believed: {await believed.check(text)}")
    assert (await believed.check(real)).subject == "anna"


async def test_a_token_is_good_for_its_time(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's tokens live 300 s; clocks may differ a little."""
    believed, real, now = believing(provider.issuer), await provider.token("anna"), time.time()

    def at(seconds: float) -> Tokens:
        monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: now + seconds))
        return believing(provider.issuer)

    for seconds in (-tokens.CLOCK_SKEW_SECONDS + 3, 0, 300 + tokens.CLOCK_SKEW_SECONDS - 3):
        assert (await at(seconds).check(real)).subject == (await believed.check(real)).subject == "anna"
    for seconds in (-60, 360):
        with pytest.raises(Denied):
            await at(seconds).check(real)
    with pytest.raises(Denied, match="expired"):
        await believed.check(real)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "http://elsewhere.example"},
        {"aud": ["another"]},
        {"aud": None},
        {"sub": ""},
        {"sub": " anna"},
        {"sub": "a\nb"},
        {"sub": "a" * 201},
        {"sub": 7},
        {"exp": None},
        {"exp": True},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": time.time() + 600},
        {"iat": time.time() + 600},
        {"cnf": {"jkt": "x"}},
        {"clock_offset": 3600.0},
    ],
    ids=str,
)
async def test_claims_must_be_in_order_whoever_signed_them(changes: dict[str, Any]) -> None:
    key = rsa()
    provider = SimpleNamespace(issuer="http://issuer.example")
    async with serving(json.dumps({"keys": [key.as_dict(private=False)]}).encode()) as uri:
        believed = believing(provider.issuer, jwks_uri=uri)
        assert (await believed.check(forged(provider, key, aud=["quanyu", "another"], nbf=time.time()))).subject == "anna"
        claims = {name: value for name, value in changes.items() if value is not None}
        missing = [name for name, value in changes.items() if value is None]
        with pytest.raises(Denied):
            await believed.check(_without(provider, key, missing) if missing else forged(provider, key, **claims))


def _without(provider: Any, key: Any, missing: list[str]) -> str:
    claims = {"iss": provider.issuer, "aud": "quanyu", "sub": "anna", "exp": int(time.time()) + 60}
    return jwt.encode({"alg": "RS256"}, {name: value for name, value in claims.items() if name not in missing}, key)


@asynccontextmanager
async def serving(body: bytes, status: str = "200 OK", headers: str = "") -> AsyncIterator[str]:
    """The address of a server that answers anything with this; without a body it never answers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if body:
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}connection: close\r\n\r\n".encode() + body)
                await writer.drain()
            else:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield "http://{}:{}/jwks".format(*server.sockets[0].getsockname()[:2])


@pytest.mark.parametrize(
    "answered",
    [
        {"body": b"<html>"},
        {"body": b"[]"},
        {"body": b"{}"},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": 7}'},
        {"body": b'{"keys": [7, {"kty": "oct", "k": "eHh4"}, {"kty": "RSA"}, {"kty": "ML-DSA"}]}'},
        {"body": json.dumps({"keys": [rsa(1024).as_dict(private=False)]}).encode()},
        {"body": json.dumps({"keys": [rsa().as_dict(private=False) | {"use": "enc"}]}).encode()},
        {"body": b"x" * (oidc.FETCH_BYTES_MAX + 1)},
        {"body": b"[" * 100_000},
        {"body": b"{}", "status": "500 Internal Server Error"},
        {"body": b"{}", "status": "302 Found", "headers": "location: http://127.0.0.1:1/\r\n"},
        {"body": b""},
    ],
    ids=lambda answered: str(answered)[:60],
)
async def test_a_provider_that_publishes_no_keys_is_away_and_asked_seldom(
    answered: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(oidc, "FETCH_SECONDS_MAX", 0.3)
    provider = SimpleNamespace(issuer="http://issuer.example")
    text = forged(provider, rsa())
    async with serving(**answered) as uri:
        believed = believing(provider.issuer, jwks_uri=uri)
        for _ in range(3):
            with pytest.raises(Unavailable, match="ISSUER_AWAY"):
                await believed.check(text)
    assert capsys.readouterr().out.count("identity provider is away") == 1


async def test_keys_are_fetched_once_however_many_wait(provider: Provider) -> None:
    believed = believing(provider.issuer)
    given = [await provider.token(client) for client in ("anna", "guo", "ops")]
    await asyncio.gather(*(believed.check(text) for text in given * 20))
    assert provider.fetched() == 1


async def test_rotated_keys_are_believed_at_once_and_withdrawn_ones_no_more(provider: Provider, clock: Clock) -> None:
    believed = believing(provider.issuer)
    first = await provider.token("anna")
    await believed.check(first)
    clock.added += oidc.REFETCH_SECONDS
    provider.told("rotate")
    second = await provider.token("anna")
    assert second.split(".")[0] != first.split(".")[0]
    assert (await believed.check(second)).subject == "anna"
    assert (await believed.check(first)).subject == "anna"
    assert provider.fetched() == 2
    clock.added += oidc.REFETCH_SECONDS
    provider.told("replace")
    assert (await believed.check(await provider.token("anna"))).subject == "anna"
    for withdrawn in (first, second):
        with pytest.raises(Denied):
            await believed.check(withdrawn)


async def test_old_keys_are_fetched_again_behind_the_requests(provider: Provider, clock: Clock) -> None:
    believed = believing(provider.issuer)
    text = await provider.token("anna")
    await believed.check(text)
    provider.told("replace")
    assert (await believed.check(text)).subject == "anna"
    clock.added += oidc.FRESH_SECONDS + 1
    assert (await believed.check(text)).subject == "anna"
    keys = believed.issuers[provider.issuer].keys
    await keys.fetching
    with pytest.raises(Denied):
        await believed.check(text)


async def test_while_the_provider_is_away_its_last_keys_serve_for_a_stated_time(provider: Provider, clock: Clock) -> None:
    believed = believing(provider.issuer)
    texts = [await provider.token("anna") for _ in range(3)]
    await believed.check(texts[0])
    provider.told("stop")
    for seconds in (oidc.FRESH_SECONDS + 1, oidc.OFFLINE_SECONDS - oidc.FRESH_SECONDS - 60):
        clock.added += seconds
        assert (await believed.check(texts[0])).subject == "anna"
        assert (await believed.check(texts[1])).subject == "anna"
    clock.added += 120
    for text in (texts[0], texts[2]):
        with pytest.raises(Unavailable, match="ISSUER_AWAY"):
            await believed.check(text)
    provider.told("start")
    clock.added += oidc.REFETCH_SECONDS
    assert (await believed.check(texts[0])).subject == "anna"


async def test_a_provider_that_was_never_there_is_503_until_it_is(provider: Provider, clock: Clock, open_gateway: Open) -> None:
    gateway = await open_gateway("member", "organization", oidc_issuers=trusting(provider.issuer))
    headers = {"authorization": f"Bearer {await provider.token('anna')}"}
    provider.told("stop")
    response = await gateway.post({"query": VIEWER}, headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    extensions = response.json()["errors"][0]["extensions"]
    assert (extensions["code"], extensions["retryable"]) == ("ISSUER_AWAY", True)
    assert (await gateway.post({"query": VIEWER}, who="operator")).status_code == 200
    provider.told("start")
    clock.added += oidc.REFETCH_SECONDS
    assert (await gateway.post({"query": VIEWER}, headers=headers)).status_code == 200


async def test_a_flood_of_unknown_keys_costs_one_fetch(provider: Provider) -> None:
    believed = believing(provider.issuer)
    text = await provider.token("anna")
    await believed.check(text)
    keys = believed.issuers[provider.issuer].keys
    keys.tried_at -= oidc.REFETCH_SECONDS
    foreign = rsa()
    flood = [forged(provider, foreign, header={"kid": f"unknown-{number}"}) for number in range(100)]
    refused = await asyncio.gather(*(believed.check(one) for one in flood), return_exceptions=True)
    assert all(isinstance(one, Denied) for one in refused)
    assert provider.fetched() == 2
    assert (await believed.check(text)).subject == "anna"
    assert len(believed.checked) == 1


async def test_a_key_nobody_can_look_up_is_no_verdict(provider: Provider, clock: Clock) -> None:
    believed = believing(provider.issuer)
    await believed.check(await provider.token("anna"))
    provider.told("rotate")
    fresh = await provider.token("anna")
    provider.told("stop")
    clock.added += oidc.REFETCH_SECONDS
    with pytest.raises(Unavailable):
        await believed.check(fresh)


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ("{", "QUANYU_OIDC_ISSUERS"),
        ('[{"issuer": "http://a.example"}]', "audience"),
        ('[{"issuer": "quanyu-local", "audience": "quanyu"}]', "issuer"),
        (trusting("http://a.example", algorithms=["none"]), "algorithms"),
        (trusting("http://a.example", algorithms=["HS256"]), "algorithms"),
        (trusting("http://a.example", algorithms=[]), "algorithms"),
        (trusting("http://a.example", audiences=["quanyu"]), "audiences"),
        (trusting("http://a.example", "http://a.example"), "twice"),
        (trusting("http://a.example", "http://b.example", people=["staff"]), "staff"),
    ],
)
def test_issuers_must_be_stated_well(stated: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Tokens(Settings(oidc_issuers=stated))


def test_production_reaches_providers_by_https() -> None:
    Tokens(Settings(env="production", oidc_issuers=trusting("https://a.example")))
    for stated in (trusting("http://a.example"), trusting("https://a.example", jwks_uri="http://a.example/jwks")):
        with pytest.raises(SettingsError, match="https"):
            Tokens(Settings(env="production", oidc_issuers=stated))


async def test_a_discovery_document_of_another_issuer_is_not_followed(provider: Provider) -> None:
    alias = provider.issuer.replace("127.0.0.1", "localhost")
    text = forged(SimpleNamespace(issuer=alias), rsa())
    with pytest.raises(Unavailable):
        await believing(alias).check(text)


KEYS = new_keys()
ISSUER = "http://127.0.0.1:1"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
HEADERS = st.fixed_dictionaries({"alg": st.sampled_from(["RS256", "none", "HS256", "ES256"]) | JSON_VALUES}, optional={"kid": JSON_VALUES})
CLAIMS = st.fixed_dictionaries({"iss": st.sampled_from([ISSUER, "quanyu-local"]) | JSON_VALUES}, optional={"sub": JSON_VALUES})
PARTS = st.builds(lambda value: _base64(json.dumps(value).encode()), HEADERS | CLAIMS | JSON_VALUES) | st.text(max_size=9)


@given(
    st.lists(PARTS, max_size=6).map(".".join) | st.tuples(PARTS, PARTS, st.text(alphabet="aZ0-_=", max_size=90)).map(".".join) | st.text()
)
@settings(max_examples=300, deadline=None)
async def test_whatever_is_shown_is_refused_and_no_bug(text: str) -> None:
    believed = Tokens(Settings(oidc_issuers=trusting(ISSUER), token_keys=KEYS.tokens_setting()))
    with pytest.raises((Denied, Unavailable)):
        await believed.check(text)


async def test_a_known_caller_costs_microseconds(provider: Provider, open_gateway: Open) -> None:
    """From header to session to the token a service gets, each from its cache: the least of some runs, against the noise of a machine."""
    gateway = await open_gateway("member", "organization", oidc_issuers=trusting(provider.issuer))
    await settle(gateway, provider.issuer)
    sessions, signer = gateway.app.state.sessions, gateway.app.state.clients.signer
    header = f"Bearer {await provider.token('guo')}"

    async def spent(rounds: int) -> float:
        started = time.process_time()
        for _ in range(rounds):
            session = await sessions.of(header)
            for audience in ("member", "commerce", "district", "organization"):
                signer.token(audience, session.principal)
        return (time.process_time() - started) / rounds

    await spent(1)
    assert min([await spent(500) for _ in range(5)]) < 50e-6
