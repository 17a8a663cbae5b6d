"""Bearer tokens (JWT): verification of signature, issuer, audience and lifetime.

Accepted issuers are the providers of QUANYU_OIDC_ISSUERS and, in development, the local issuer (`quanyu token`).
"""

import time
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from typing import Any

import msgspec
from cachetools import LRUCache
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from msgspec import Struct

from gateway.auth.oidc import JWKS, Provider, RemoteJWKS, load_providers
from services.kit.errors import Denied
from services.kit.observability.logs import logger
from services.kit.settings import Settings, SettingsError

LOCAL = "quanyu-local"
AUDIENCE = "quanyu"
CLOCK_SKEW_SECONDS = 10
"""The clocks of an issuer and of the gateway may differ by this much."""
CACHED_TOKENS_MAX = 10_000
"""This many verified tokens are cached."""
TOKEN_LENGTH_MAX = 8192
"""A token may have this many characters."""
SUBJECT_LENGTH_MAX = 200
"""A subject may have this many characters."""
TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""The accepted values of `typ`. An issuer also signs other statements (logout tokens, request objects), which are not access tokens."""


class Header(Struct, frozen=True):
    """The header fields of a token that select its key."""

    alg: str
    kid: str | None = None
    typ: str = "JWT"


class Claims(Struct, frozen=True):
    """The claims of a token; those without a default are required."""

    iss: str
    aud: str | list[str]
    sub: str
    exp: float
    nbf: float | None = None
    iat: float | None = None
    cnf: object = None
    clock_offset: float = 0.0


class UnverifiedClaims(Struct, frozen=True):
    """The issuer that a token names before its signature is verified; it selects the keys."""

    iss: str


class Token(Struct, frozen=True):
    """A verified token: `subject` of `issuer`; an empty `issuer` is the local one. `version`: of the JWKS that verified it."""

    subject: str
    clock_offset: float
    expires_at: float
    issuer: str = ""
    version: int = 0


class Issuer(Struct, frozen=True):
    """An accepted issuer: the claims it must state, and the keys that sign its tokens."""

    provider: Provider
    keys: JWKS
    is_local: bool = False


class TokenVerifier:
    """Verifies bearer tokens. A verified token is cached until it expires or the keys of its issuer change."""

    def __init__(self, settings: Settings) -> None:
        providers = {provider.issuer: Issuer(provider, RemoteJWKS(provider)) for provider in load_providers(settings)}
        self.issuers = providers | _load_local_issuer(settings)
        self.cache: LRUCache[str, Token] = LRUCache(CACHED_TOKENS_MAX)

    def find_cached(self, text: str) -> Token | None:
        """Returns a token that was verified before and is still valid."""
        try:
            token = self.cache[text]
        except KeyError:
            return None
        keys = self.issuers[token.issuer or LOCAL].keys
        return token if not _is_expired(token) and keys.is_current() and keys.version == token.version else None

    async def verify(self, text: str) -> Token:
        """Returns the verified token; raises `Denied` for an invalid one and `Unavailable` when its issuer's keys cannot be fetched."""
        if (cached := self.find_cached(text)) is not None:
            return cached
        self.cache.pop(text, None)
        try:
            token = await self._read(text)
        except (JoseError, msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
            logger().info("token refused", reason=str(error) if isinstance(error, InvalidToken) else type(error).__name__)
            raise authentication_error("This token is not valid. Sign in again.") from None
        if _is_expired(token):
            raise token_expired_error()
        self.cache[text] = token
        return token

    def provider(self, token: Token) -> Provider:
        """Returns the provider that issued the token."""
        return self.issuers[token.issuer or LOCAL].provider

    async def _read(self, text: str) -> Token:
        if len(text) > TOKEN_LENGTH_MAX or text.count(".") != 2:
            raise InvalidToken("form")
        parts = text.split(".")
        issuer = self.issuers.get(msgspec.json.decode(_decode(parts[1]), type=UnverifiedClaims).iss)
        if issuer is None:
            raise InvalidToken("issuer")
        header = msgspec.json.decode(_decode(parts[0]), type=Header)
        if header.alg not in issuer.provider.algorithms:
            raise InvalidToken("algorithm")
        if header.typ.lower() not in TYPES:
            raise InvalidToken("type")
        key = await issuer.keys.find(header.kid, header.alg)
        if key is None:
            raise InvalidToken("key")
        version = issuer.keys.version
        signed = jws.deserialize_compact(text, key, algorithms=[header.alg])
        return _check_claims(issuer, msgspec.json.decode(signed.payload, type=Claims), version)


def _is_expired(token: Token) -> bool:
    return token.expires_at + CLOCK_SKEW_SECONDS <= time.time()


def _check_claims(issuer: Issuer, claims: Claims, version: int) -> Token:
    provider = issuer.provider
    if claims.iss != provider.issuer:
        raise InvalidToken("issuer")
    if provider.audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise InvalidToken("audience")
    if not claims.sub.isprintable() or claims.sub != claims.sub.strip() or not 0 < len(claims.sub) <= SUBJECT_LENGTH_MAX:
        raise InvalidToken("subject")
    if max(claims.nbf or 0.0, claims.iat or 0.0) - CLOCK_SKEW_SECONDS > time.time():
        raise InvalidToken("not valid yet")
    if claims.cnf is not None:
        # A token bound to a key needs a proof of possession, which a bearer token does not carry.
        raise InvalidToken("bound to a key")
    if claims.clock_offset and not issuer.is_local:
        raise InvalidToken("only the local issuer may set clock_offset")
    return Token(claims.sub, claims.clock_offset, claims.exp, "" if issuer.is_local else provider.issuer, version)


class InvalidToken(ValueError):
    """A token is not valid. The message names the check that failed; it goes to the log, not to the client."""


def authentication_error(message: str) -> Denied:
    """Returns the refusal (401) of a request without a valid token."""
    return Denied("UNAUTHENTICATED", message)


def token_expired_error() -> Denied:
    """Returns the refusal (401) of a request or connection whose token has expired."""
    return authentication_error("This token has expired. Send a new one.")


def _decode(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except Base64Error:
        raise InvalidToken("form") from None


def _load_local_issuer(settings: Settings) -> dict[str, Issuer]:
    try:
        jwks: Any = msgspec.json.decode(settings.token_keys)
        keys = [OKPKey.import_key(key) for key in jwks["keys"]]
    except (JoseError, msgspec.DecodeError, ValueError, TypeError, KeyError):
        raise SettingsError("QUANYU_TOKEN_KEYS is not a JSON Web Key Set") from None
    if not keys:
        return {}
    if settings.env != "development":
        raise SettingsError("QUANYU_TOKEN_KEYS configures the local issuer, which is for development only; unset it in production")
    provider = Provider(issuer=LOCAL, audience=AUDIENCE, algorithms=frozenset({"Ed25519"}))
    return {LOCAL: Issuer(provider, JWKS(keys), is_local=True)}
