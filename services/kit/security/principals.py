"""Principals: short-lived signed tokens (JWT) that state the caller of an rpc; each service verifies them.

Issuers are the gateway, each service and registered machine clients. An issuer may assert only the roles that its settings name, for one
audience, for at most `LIFETIME`. The network location of a caller grants nothing.
"""

import time
from base64 import urlsafe_b64decode
from datetime import timedelta
from typing import Any

import msgspec
from cachetools import TLRUCache, TTLCache
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from msgspec import Struct

from services.kit.errors import Denied
from services.kit.settings import SettingsError

ALGORITHM = "Ed25519"
LIFETIME = timedelta(seconds=120)
"""A signed principal is valid for at most this long."""
CLOCK_SKEW_SECONDS = 10
"""The clocks of issuer and verifier may differ by this much."""
CACHE_MAX = 20_000
"""A process caches at most as many signed tokens, and as many verified ones."""
INSTALLATION = "SCOPE_KIND_INSTALLATION"
SERVICE = "ROLE_SERVICE"


class Grant(Struct, frozen=True, array_like=True):
    """A role within a scope: labels of `quanyu.access.v1.Role` and `ScopeKind`, and the id the scope names."""

    role: str
    kind: str
    id: str = ""


class Principal(Struct, frozen=True, cache_hash=True):
    """The caller of an rpc: `id`, `grants`, the principal it acts for (`on_behalf_of`) and, in development, the offset of its clock in
    seconds. A verified principal has the `issuer` that signed it."""

    id: str
    grants: tuple[Grant, ...] = ()
    on_behalf_of: str = ""
    clock_offset: float = 0.0
    issuer: str = ""


class Issuer(Struct, frozen=True):
    """A known issuer: its public keys (several while they rotate) and the roles it may assert."""

    keys: list[dict[str, Any]]
    roles: frozenset[str]


class Signer:
    """Signs principals as `issuer`. The same principal for the same audience is signed once per half lifetime."""

    def __init__(self, issuer: str, signing_key: str) -> None:
        if not signing_key:
            raise SettingsError(
                "QUANYU_SIGNING_KEY is empty. Start with `quanyu up`, which makes a key, or set it from a Kubernetes secret."
            )
        try:
            self.key = OKPKey.import_key(msgspec.json.decode(signing_key))
        except (ValueError, JoseError, msgspec.DecodeError):
            raise SettingsError("QUANYU_SIGNING_KEY is not a private JWK of type OKP. Generate one.") from None
        self.issuer = issuer
        self.signed: TTLCache[tuple[str, Principal], str] = TTLCache(CACHE_MAX, LIFETIME.total_seconds() / 2, timer=time.time)

    def sign(self, audience: str, principal: Principal) -> str:
        """Returns a token for `audience` that is valid for at least half of LIFETIME."""
        try:
            return self.signed[audience, principal]
        except KeyError:
            token = self.signed[audience, principal] = self._encode(audience, principal)
            return token

    def _encode(self, audience: str, principal: Principal) -> str:
        at = time.time()
        claims = {
            "iss": self.issuer,
            "aud": audience,
            "sub": principal.id,
            "iat": int(at),
            "exp": int(at + LIFETIME.total_seconds()),
            "grants": msgspec.to_builtins(principal.grants),
            "obo": principal.on_behalf_of,
            "clock_offset": principal.clock_offset,
        }
        return jwt.encode({"alg": ALGORITHM, "kid": self.key.kid}, claims, self.key, algorithms=[ALGORITHM])


class Verifier:
    """Verifies tokens for `audience`. A verified token is cached until it expires, so that the next call costs a look-up."""

    def __init__(self, audience: str, issuers: str, *, development: bool) -> None:
        try:
            self.issuers = msgspec.json.decode(issuers, type=dict[str, Issuer])
        except msgspec.DecodeError as error:
            raise SettingsError(f"QUANYU_ISSUERS is not usable: {error}. Give JSON of issuer -> keys and roles.") from None
        self.keys = {name: KeySet.import_key_set({"keys": issuer.keys}) for name, issuer in self.issuers.items()}
        self.audience, self.development = audience, development
        self.verified: TLRUCache[str, tuple[float, Principal]] = TLRUCache(CACHE_MAX, _expires_at, timer=time.time)

    def verify(self, token: str) -> Principal:
        """Returns the principal that a token states; raises `Denied` (INVALID_PRINCIPAL) for an invalid token."""
        try:
            return self.verified[token][1]
        except KeyError:
            pass
        try:
            checked = self.verified[token] = self._check(token)
        except (JoseError, ValueError, LookupError, TypeError, msgspec.ValidationError):
            raise Denied("INVALID_PRINCIPAL", "The token of the calling process is not valid.") from None
        return checked[1]

    def _check(self, token: str) -> tuple[float, Principal]:
        issuer = _unverified_issuer(token)
        claims = jwt.decode(token, self.keys[issuer], algorithms=[ALGORITHM]).claims
        issued_at, expires_at = float(claims["iat"]), float(claims["exp"])
        at = time.time()
        if claims["iss"] != issuer or claims["aud"] != self.audience:
            raise ValueError("issuer or audience differs")
        if not issued_at - CLOCK_SKEW_SECONDS <= at < expires_at + CLOCK_SKEW_SECONDS:
            raise ValueError("not valid now")
        if expires_at - issued_at > LIFETIME.total_seconds():
            raise ValueError("lifetime is too long")
        grants = msgspec.convert(claims["grants"], tuple[Grant, ...])
        if not {grant.role for grant in grants} <= self.issuers[issuer].roles:
            raise ValueError("role is not allowed for the issuer")
        offset = float(claims["clock_offset"])
        if offset and not self.development:
            raise ValueError("clock_offset is for development only")
        return expires_at, Principal(str(claims["sub"]), grants, str(claims["obo"]), offset, issuer)


def _expires_at(token: str, checked: tuple[float, Principal], now: float) -> float:
    return checked[0]


def _unverified_issuer(token: str) -> str:
    """Returns the issuer that a token names before its signature is verified; it selects the keys."""
    part = token.split(".")[1]
    claims = msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return str(claims["iss"])


def generate_key(kid: str) -> dict[str, Any]:
    """Returns a new private key as JWK; without its member `d` it is the public key."""
    return dict(OKPKey.generate_key("Ed25519", {"kid": kid}).as_dict(private=True))
