"""Tokens of a real identity provider (npm `oidc-provider`): which ones are accepted, and the session they resolve to."""

import hmac
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from gateway.auth import bearer_tokens
from gateway.auth.bearer_tokens import TokenVerifier
from gateway.auth.sessions import SessionResolver
from services.kit.errors import Denied, Unavailable
from services.kit.settings import Settings
from services.local.keys import new_keys
from services.local.mongod import free_port
from tests.conformance.conftest import node
from tests.conformance.provider import Provider, providing
from tests.gateway.conftest import Gateway, Open
from tests.gateway.small_world import NEAR, mutate
from tests.gateway.token_issuers import (
    base64,
    create_unsigned_token,
    create_verifier,
    forge_token,
    issuer_settings,
    process,
    provider,
    rsa_key,
    serve_bytes,
)

__all__ = ["node", "process", "provider"]

VIEWER = "{ viewer { consumer { id } staff { id } } }"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_provider_token_is_accepted(provider: Provider, algorithm: str) -> None:
    for changes in ({}, {"jwks_uri": f"{provider.issuer}/jwks"}):
        verifier = create_verifier(provider.issuer, algorithms=[algorithm], **changes)
        token = await verifier.verify(await provider.token("anna", algorithm=algorithm))
        assert (token.issuer, token.subject) == (provider.issuer, "anna")
    assert (await verifier.verify(await provider.signed_in("mia", algorithm=algorithm))).subject == "mia"


async def test_provider_subject_resolves_to_staff_or_consumer(provider: Provider, open_gateway: Open) -> None:
    gateway = await open_gateway("member", "organization", oidc_issuers=issuer_settings(provider.issuer, operators=["ops"]))
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
    brand = {"brandId": "brd_b", "kind": "BRAND", "name": {"zh": "乙"}, "zone": "Asia/Shanghai", "currency": "CNY"}
    query = "mutation ($input: CreateBrandInput!) { createBrand(input: $input) { __typename } }"
    answer = await gateway.post({"query": query, "variables": {"input": brand}}, headers=operator)
    assert answer.json()["data"] == {"createBrand": {"__typename": "CreateBrandPayload"}}


async def settle(gateway: Gateway, issuer: str) -> None:
    """Creates a brand with guo as staff, and anna and mia as consumers."""
    given = {"brandId": "brd_a", "kind": "BRAND", "name": {"zh": "甲"}, "zone": "Asia/Shanghai", "currency": "CNY"}
    await mutate(gateway, "createBrand", given)
    await mutate(
        gateway, "createStore", {"storeId": "str_a", "kind": "STORE", "parentId": "unt_brd_a", "name": {"zh": "甲"}, "position": NEAR}
    )
    await mutate(gateway, "hireStaff", {"staffId": "stf_guo", "storeId": "str_a", "name": "Guo", "subject": "guo"})
    await mutate(gateway, "grantRole", {"staffId": "stf_guo", "role": "GUIDE", "kind": "STORE", "scopeId": "str_a"})
    for name in ("anna", "mia"):
        identity = {"kind": "OIDC_SUBJECT", "namespace": issuer, "value": name, "verified": True}
        given = {"consumerId": f"con_{name}", "brandId": "brd_a", "identities": [identity]}
        await mutate(gateway, "registerConsumer", given)


async def test_provider_subject_named_like_an_id_is_unknown(provider: Provider, open_gateway: Open) -> None:
    """A provider's user whose name is an id of the suite gets no grants; neither does staff of a provider for consumers only."""
    gateway = await open_gateway("member", "organization", oidc_issuers=issuer_settings(provider.issuer))
    await settle(gateway, provider.issuer)
    for login in ("stf_guo", "con_anna", "operator"):
        session = await gateway.app.state.sessions.authenticate(f"Bearer {await provider.signed_in(login)}")
        assert (session.staff_id, session.consumer_id, session.principal.grants) == ("", "", ())
        assert session.principal.id.startswith("sub_") and login not in session.principal.id
    consumers_only = Settings(oidc_issuers=issuer_settings(provider.issuer, people=["consumers"]))
    gateway.called.clear()
    session = await SessionResolver(consumers_only, gateway.app.state.clients).authenticate(f"Bearer {await provider.token('guo')}")
    assert session.principal is not None and session.principal.grants == ()
    assert gateway.called == ["ResolveConsumerRequest"]


async def test_provider_identity_without_member_is_unavailable(provider: Provider, open_gateway: Open) -> None:
    gateway = await open_gateway("organization", oidc_issuers=issuer_settings(provider.issuer), deadline_seconds=2.0)
    for client in ("guo", "anna"):
        with pytest.raises(Unavailable, match="IDENTITY_UNAVAILABLE"):
            await gateway.app.state.sessions.authenticate(f"Bearer {await provider.token(client)}")


async def test_forged_or_foreign_token_is_refused(node: str, provider: Provider) -> None:
    verifier = create_verifier(provider.issuer)
    published = {one["alg"]: one for one in await provider.published()}
    kid = {"kid": published["RS256"]["kid"]}
    foreign, public = rsa_key(), RSAKey.import_key(published["RS256"])
    real = await provider.token("anna")
    head, body, signature = real.split(".")
    pem = public.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    shared = create_unsigned_token(provider, alg="HS256", **kid).rstrip(".")
    refused = {
        "another audience": await provider.token("anna", audience="another"),
        "an algorithm that is not allowed": await provider.token("anna", algorithm="EdDSA"),
        "a foreign key": forge_token(provider, foreign, header=kid),
        "a foreign key that the token brings along": forge_token(provider, foreign, header=kid | {"jwk": foreign.as_dict(private=False)}),
        "a foreign key under no name": forge_token(provider, foreign),
        "the public key as a shared secret": f"{shared}.{base64(hmac.digest(pem, shared.encode(), 'sha256'))}",
        "another algorithm's key": forge_token(provider, ECKey.generate_key("P-256"), "ES256", kid),
        "no signature": create_unsigned_token(provider, **kid),
        "a signature of no algorithm": create_unsigned_token(provider, **kid) + signature,
        "a changed body": f"{head}.{body[:-4]}AAAA.{signature}",
        "another header": f"{create_unsigned_token(provider, alg='RS256', **kid).split('.')[0]}.{body}.{signature}",
        "a nested one": ".".join([base64(b"[" * 2000)] * 3),
    }
    with providing(node, free_port()) as another:
        refused["another issuer"] = await another.token("anna")
        refused["another issuer under this one's name"] = forge_token(
            provider, foreign, header={"kid": (await another.published())[0]["kid"]}
        )
        assert (await create_verifier(another.issuer).verify(refused["another issuer"])).issuer == another.issuer
    for what, text in refused.items():
        with pytest.raises(Denied):
            pytest.fail(f"{what} is accepted: {await verifier.verify(text)}")
    assert (await verifier.verify(real)).subject == "anna"


async def test_token_is_valid_within_its_lifetime(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's tokens are valid for 300 s; clocks may differ by CLOCK_SKEW_SECONDS."""
    verifier, real, now = create_verifier(provider.issuer), await provider.token("anna"), time.time()

    def at(seconds: float) -> TokenVerifier:
        monkeypatch.setattr(bearer_tokens, "time", SimpleNamespace(time=lambda: now + seconds))
        return create_verifier(provider.issuer)

    for seconds in (-bearer_tokens.CLOCK_SKEW_SECONDS + 3, 0, 300 + bearer_tokens.CLOCK_SKEW_SECONDS - 3):
        assert (await at(seconds).verify(real)).subject == (await verifier.verify(real)).subject == "anna"
    for seconds in (-60, 360):
        with pytest.raises(Denied):
            await at(seconds).verify(real)
    with pytest.raises(Denied, match="expired"):
        await verifier.verify(real)


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
    ids=", ".join,
)
async def test_token_with_invalid_claims_is_refused(changes: dict[str, Any]) -> None:
    key = rsa_key()
    provider = SimpleNamespace(issuer="http://issuer.example")
    async with serve_bytes(json.dumps({"keys": [key.as_dict(private=False)]}).encode()) as uri:
        verifier = create_verifier(provider.issuer, jwks_uri=uri)
        assert (await verifier.verify(forge_token(provider, key, aud=["quanyu", "another"], nbf=time.time()))).subject == "anna"
        claims = {name: value for name, value in changes.items() if value is not None}
        missing = [name for name, value in changes.items() if value is None]
        with pytest.raises(Denied):
            await verifier.verify(_without(provider, key, missing) if missing else forge_token(provider, key, **claims))


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", ""])
async def test_signed_statement_of_another_type_is_refused(typ: str) -> None:
    provider = SimpleNamespace(issuer="http://issuer.example")
    async with serve_bytes(json.dumps({"keys": [rsa_key().as_dict(private=False)]}).encode()) as uri:
        verifier = create_verifier(provider.issuer, jwks_uri=uri)
        assert (await verifier.verify(forge_token(provider, rsa_key(), header={"typ": "JWT"}))).subject == "anna"
        with pytest.raises(Denied):
            await verifier.verify(forge_token(provider, rsa_key(), header={"typ": typ}))


def _without(provider: Any, key: Any, missing: list[str]) -> str:
    claims = {"iss": provider.issuer, "aud": "quanyu", "sub": "anna", "exp": int(time.time()) + 60}
    return jwt.encode({"alg": "RS256"}, {name: value for name, value in claims.items() if name not in missing}, key)


KEYS = new_keys()
ISSUER = "http://127.0.0.1:1"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
HEADERS = st.fixed_dictionaries({"alg": st.sampled_from(["RS256", "none", "HS256", "ES256"]) | JSON_VALUES}, optional={"kid": JSON_VALUES})
CLAIMS = st.fixed_dictionaries({"iss": st.sampled_from([ISSUER, "quanyu-local"]) | JSON_VALUES}, optional={"sub": JSON_VALUES})
PARTS = st.builds(lambda value: base64(json.dumps(value).encode()), HEADERS | CLAIMS | JSON_VALUES) | st.text(max_size=9)


@given(
    st.lists(PARTS, max_size=6).map(".".join) | st.tuples(PARTS, PARTS, st.text(alphabet="aZ0-_=", max_size=90)).map(".".join) | st.text()
)
@settings(max_examples=300, deadline=None)
async def test_arbitrary_text_is_refused_without_a_bug(text: str) -> None:
    verifier = TokenVerifier(Settings(oidc_issuers=issuer_settings(ISSUER), token_keys=KEYS.tokens_setting()))
    with pytest.raises((Denied, Unavailable)):
        await verifier.verify(text)


async def test_cached_session_and_signature_cost_microseconds(provider: Provider, open_gateway: Open) -> None:
    """From header to session to the token for a service, each from its cache; the fastest run counts, without other processes."""
    gateway = await open_gateway("member", "organization", oidc_issuers=issuer_settings(provider.issuer))
    await settle(gateway, provider.issuer)
    sessions, signer = gateway.app.state.sessions, gateway.app.state.clients.signer
    header = f"Bearer {await provider.token('guo')}"

    async def spent(rounds: int) -> float:
        started = time.process_time()
        for _ in range(rounds):
            session = await sessions.authenticate(header)
            for audience in ("member", "commerce", "district", "organization"):
                signer.sign(audience, session.principal)
        return (time.process_time() - started) / rounds

    await spent(1)
    assert min([await spent(500) for _ in range(5)]) < 50e-6
