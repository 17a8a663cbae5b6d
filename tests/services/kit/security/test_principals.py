"""Tests of principals: only a current token of a known issuer, for this audience and its roles, is valid."""

import time
from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey
from msgspec.structs import replace

from services.kit.errors import Denied
from services.kit.security.principals import ALGORITHM, Grant, Principal, Signer, Verifier, generate_key
from services.local.keys import Keys, new_keys

GUIDE = Principal("stf_1", (Grant("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"),), on_behalf_of="con_1")
VERIFIED = replace(GUIDE, issuer="gateway")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return new_keys()


@pytest.fixture
def verifier(keys: Keys) -> Verifier:
    return Verifier("member", keys.issuers_setting(), development=False)


def sign_claims(keys: Keys, issuer: str = "gateway", key: dict[str, Any] | None = None, **changes: object) -> str:
    """Signs a token with changed claims, by default with the key of the issuer."""
    at = int(time.time())
    claims = {"iss": issuer, "aud": "member", "sub": "x", "iat": at, "exp": at + 60, "grants": [], "obo": "", "clock_offset": 0.0} | changes
    private = OKPKey.import_key(key or keys.issuers[issuer])
    return jwt.encode({"alg": ALGORITHM, "kid": private.kid}, claims, private, algorithms=[ALGORITHM])


def test_signed_principal_is_verified(keys: Keys, verifier: Verifier) -> None:
    token = Signer("gateway", keys.signing_setting("gateway")).sign("member", GUIDE)
    assert verifier.verify(token) == VERIFIED
    assert verifier.verify(token) == VERIFIED


def test_same_principal_is_signed_once(keys: Keys) -> None:
    signer = Signer("gateway", keys.signing_setting("gateway"))
    assert signer.sign("member", GUIDE) is signer.sign("member", GUIDE)
    assert signer.sign("member", GUIDE) != signer.sign("commerce", GUIDE)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "commerce"},
        {"exp": 1},
        {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3660},
        {"exp": int(time.time()) + 86_400},
        {"grants": [["ROLE_OPERATOR", "SCOPE_KIND_INSTALLATION", ""]], "iss": "district"},
        {"iss": "unknown"},
        {"grants": "all"},
        {"clock_offset": 3600.0},
    ],
    ids=", ".join,
)
def test_invalid_claims_are_denied(keys: Keys, verifier: Verifier, changes: dict[str, Any]) -> None:
    issuer = changes.get("iss", "gateway")
    key = keys.issuers.get(issuer, keys.issuers["gateway"])
    with pytest.raises(Denied):
        verifier.verify(sign_claims(keys, key=key, **changes))


def test_foreign_key_with_a_known_id_is_denied(keys: Keys, verifier: Verifier) -> None:
    with pytest.raises(Denied):
        verifier.verify(sign_claims(keys, key=generate_key("gateway-1")))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.e30", "." * 5])
def test_malformed_token_is_denied(verifier: Verifier, token: str) -> None:
    with pytest.raises(Denied):
        verifier.verify(token)


def test_unsigned_token_is_denied(keys: Keys, verifier: Verifier) -> None:
    header, claims, _ = sign_claims(keys).split(".")
    with pytest.raises(Denied):
        verifier.verify(f"{header}.{claims}.")
    none = msgspec.json.encode({"alg": "none"})
    with pytest.raises(Denied):
        verifier.verify(f"{urlsafe_b64encode(none).decode().rstrip('=')}.{claims}.")


def test_old_and_new_keys_are_valid_during_rotation(keys: Keys) -> None:
    old, new = keys.issuers["gateway"], generate_key("gateway-2")
    public = [{name: value for name, value in key.items() if name != "d"} for key in (new, old)]
    rotating = Verifier("member", msgspec.json.encode({"gateway": {"keys": public, "roles": ["ROLE_GUIDE"]}}).decode(), development=False)
    for key in (old, new):
        token = Signer("gateway", msgspec.json.encode(key).decode()).sign("member", GUIDE)
        assert rotating.verify(token) == VERIFIED
