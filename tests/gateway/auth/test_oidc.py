"""JWKS of an identity provider: fetches, rotation, withdrawal, and the outage of the provider."""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from gateway.auth import oidc
from gateway.auth.bearer_tokens import TokenVerifier
from gateway.auth.oidc import RemoteJWKS
from services.kit.errors import Denied, Unavailable
from services.kit.settings import Settings, SettingsError
from tests.conformance.conftest import node
from tests.conformance.provider import Provider
from tests.gateway.conftest import Open
from tests.gateway.token_issuers import create_verifier, forge_token, issuer_settings, process, provider, rsa_key, serve_bytes

__all__ = ["node", "process", "provider"]

VIEWER = "{ viewer { consumer { id } staff { id } } }"


class Clock:
    """The monotonic clock of the JWKS, plus the seconds that a test adds."""

    def __init__(self) -> None:
        self.added = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.added


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(oidc, "time", clock)
    return clock


@pytest.mark.parametrize(
    "answered",
    [
        {"body": b"<html>"},
        {"body": b"[]"},
        {"body": b"{}"},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": 7}'},
        {"body": b'{"keys": [7, {"kty": "oct", "k": "eHh4"}, {"kty": "RSA"}, {"kty": "ML-DSA"}]}'},
        {"body": json.dumps({"keys": [rsa_key(1024).as_dict(private=False)]}).encode()},
        {"body": json.dumps({"keys": [rsa_key().as_dict(private=False) | {"use": "enc"}]}).encode()},
        {"body": json.dumps({"keys": [rsa_key().as_dict(private=False) | {"key_ops": ["encrypt"]}]}).encode()},
        {"body": b" " * oidc.FETCH_BYTES_MAX + json.dumps({"keys": [rsa_key().as_dict(private=False)]}).encode()},
        {"body": b"[" * 100_000},
        {"body": b"{}", "status": "500 Internal Server Error"},
        {"body": b"{}", "status": "302 Found", "headers": "location: http://127.0.0.1:1/\r\n"},
        {"body": b""},
    ],
    ids=lambda answered: str(answered)[:22],
)
async def test_provider_without_usable_keys_is_fetched_once(
    answered: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(oidc, "FETCH_SECONDS_MAX", 0.3)
    provider = SimpleNamespace(issuer="http://issuer.example")
    text = forge_token(provider, rsa_key())
    async with serve_bytes(**answered) as uri:
        verifier = create_verifier(provider.issuer, jwks_uri=uri)
        for _ in range(3):
            with pytest.raises(Unavailable, match="ISSUER_AWAY"):
                await verifier.verify(text)
    assert capsys.readouterr().out.count("identity provider is unavailable") == 1


async def test_concurrent_tokens_cause_one_fetch(provider: Provider) -> None:
    verifier = create_verifier(provider.issuer)
    given = [await provider.token(client) for client in ("anna", "guo", "ops")]
    await asyncio.gather(*(verifier.verify(text) for text in given * 20))
    assert provider.fetched() == 1


async def test_rotated_keys_replace_withdrawn_keys_at_once(provider: Provider, clock: Clock) -> None:
    verifier = create_verifier(provider.issuer)
    first = await provider.token("anna")
    await verifier.verify(first)
    clock.added += oidc.REFETCH_SECONDS
    provider.told("rotate")
    second = await provider.token("anna")
    assert second.split(".")[0] != first.split(".")[0]
    assert (await verifier.verify(second)).subject == "anna"
    assert (await verifier.verify(first)).subject == "anna"
    assert provider.fetched() == 2
    clock.added += oidc.REFETCH_SECONDS
    provider.told("replace")
    assert (await verifier.verify(await provider.token("anna"))).subject == "anna"
    for withdrawn in (first, second):
        with pytest.raises(Denied):
            await verifier.verify(withdrawn)


async def test_old_keys_are_fetched_in_the_background(provider: Provider, clock: Clock) -> None:
    verifier = create_verifier(provider.issuer)
    text = await provider.token("anna")
    await verifier.verify(text)
    provider.told("replace")
    assert (await verifier.verify(text)).subject == "anna"
    clock.added += oidc.REFRESH_SECONDS + 1
    assert (await verifier.verify(text)).subject == "anna"
    keys = verifier.issuers[provider.issuer].keys
    await keys.fetching
    with pytest.raises(Denied):
        await verifier.verify(text)


async def test_last_keys_of_unavailable_provider_expire(provider: Provider, clock: Clock) -> None:
    verifier = create_verifier(provider.issuer)
    texts = [await provider.token("anna") for _ in range(3)]
    await verifier.verify(texts[0])
    provider.told("stop")
    for seconds in (oidc.REFRESH_SECONDS + 1, oidc.STALE_SECONDS_MAX - oidc.REFRESH_SECONDS - 60):
        clock.added += seconds
        assert (await verifier.verify(texts[0])).subject == "anna"
        assert (await verifier.verify(texts[1])).subject == "anna"
    clock.added += 120
    for text in (texts[0], texts[2]):
        with pytest.raises(Unavailable, match="ISSUER_AWAY"):
            await verifier.verify(text)
    provider.told("start")
    clock.added += oidc.REFETCH_SECONDS
    assert (await verifier.verify(texts[0])).subject == "anna"


async def test_provider_unavailable_at_start_is_503(provider: Provider, clock: Clock, open_gateway: Open) -> None:
    gateway = await open_gateway("member", "organization", oidc_issuers=issuer_settings(provider.issuer))
    headers = {"authorization": f"Bearer {await provider.token('anna')}"}
    provider.told("stop")
    response = await gateway.post({"query": VIEWER}, headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    extensions = response.json()["errors"][0]["extensions"]
    assert (extensions["code"], extensions["retryable"]) == ("ISSUER_AWAY", True)
    assert (await gateway.post({"query": VIEWER}, subject="operator")).status_code == 200
    provider.told("start")
    clock.added += oidc.REFETCH_SECONDS
    assert (await gateway.post({"query": VIEWER}, headers=headers)).status_code == 200


async def test_flood_of_unknown_keys_causes_one_fetch(provider: Provider) -> None:
    verifier = create_verifier(provider.issuer)
    text = await provider.token("anna")
    await verifier.verify(text)
    keys = verifier.issuers[provider.issuer].keys
    keys.tried_at -= oidc.REFETCH_SECONDS
    foreign = rsa_key()
    flood = [forge_token(provider, foreign, header={"kid": f"unknown-{number}"}) for number in range(100)]
    refused = await asyncio.gather(*(verifier.verify(one) for one in flood), return_exceptions=True)
    assert all(isinstance(one, Denied) for one in refused)
    assert provider.fetched() == 2
    assert (await verifier.verify(text)).subject == "anna"
    assert len(verifier.cache) == 1


async def test_unknown_key_of_unavailable_provider_is_unavailable(provider: Provider, clock: Clock) -> None:
    verifier = create_verifier(provider.issuer)
    await verifier.verify(await provider.token("anna"))
    provider.told("rotate")
    fresh = await provider.token("anna")
    provider.told("stop")
    clock.added += oidc.REFETCH_SECONDS
    with pytest.raises(Unavailable):
        await verifier.verify(fresh)


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ("{", "QUANYU_OIDC_ISSUERS"),
        ('[{"issuer": "http://a.example"}]', "audience"),
        ('[{"issuer": "quanyu-local", "audience": "quanyu"}]', "issuer"),
        (issuer_settings("http://a.example", algorithms=["none"]), "algorithms"),
        (issuer_settings("http://a.example", algorithms=["HS256"]), "algorithms"),
        (issuer_settings("http://a.example", algorithms=[]), "algorithms"),
        (issuer_settings("http://a.example", audiences=["quanyu"]), "audiences"),
        (issuer_settings("http://a.example", "http://a.example"), "twice"),
        (issuer_settings("http://a.example", "http://b.example", people=["staff"]), "staff"),
    ],
)
def test_invalid_issuer_settings_are_refused(stated: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        TokenVerifier(Settings(oidc_issuers=stated))


def test_production_requires_https_for_providers() -> None:
    TokenVerifier(Settings(env="production", oidc_issuers=issuer_settings("https://a.example")))
    for stated in (issuer_settings("http://a.example"), issuer_settings("https://a.example", jwks_uri="http://a.example/jwks")):
        with pytest.raises(SettingsError, match="https"):
            TokenVerifier(Settings(env="production", oidc_issuers=stated))


async def test_discovery_document_of_another_issuer_is_refused(provider: Provider) -> None:
    alias = provider.issuer.replace("127.0.0.1", "localhost")
    text = forge_token(SimpleNamespace(issuer=alias), rsa_key())
    with pytest.raises(Unavailable):
        await create_verifier(alias).verify(text)


async def test_https_provider_with_http_keys_is_refused() -> None:
    provider = oidc.Provider(issuer="https://issuer.example", audience="quanyu")
    stated = {"issuer": provider.issuer, "jwks_uri": "https://keys.example/jwks"}
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=stated))) as http:
        assert await RemoteJWKS(provider)._discover_jwks_uri(http) == stated["jwks_uri"]
        stated["jwks_uri"] = "http://keys.example/jwks"
        with pytest.raises(ValueError, match="https"):
            await RemoteJWKS(provider)._discover_jwks_uri(http)
