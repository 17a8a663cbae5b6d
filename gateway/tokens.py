"""Bearer tokens: what one states, once it is certain who signed it, for whom and for when.

Believed are the providers of QUANYU_OIDC_ISSUERS and, in development, the local issuer (`quanyu token`).
"""

import time
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections import OrderedDict
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from msgspec import Struct

from gateway.oidc import FetchedKeys, Keys, Trusted, trusted
from services.kit.errors import Denied
from services.kit.logs import logger
from services.kit.settings import Settings, SettingsError

LOCAL = "quanyu-local"
AUDIENCE = "quanyu"
CLOCK_SKEW_SECONDS = 10
KEPT_MAX = 10_000
TOKEN_LENGTH_MAX = 8192
SUBJECT_LENGTH_MAX = 200
TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Other signed statements of the same issuer (that somebody signed out, that a request is theirs) are no tokens."""


class Header(Struct, frozen=True):
    """What is read of a token's header, by which its key is chosen."""

    alg: str
    kid: str | None = None
    typ: str = "JWT"


class Claims(Struct, frozen=True):
    """What a token must state, and what it may."""

    iss: str
    aud: str | list[str]
    sub: str
    exp: float
    nbf: float | None = None
    iat: float | None = None
    cnf: object = None
    clock_offset: float = 0.0


class Named(Struct, frozen=True):
    """The issuer a token names. Its signature decides afterwards whether that is true."""

    iss: str


class Token(Struct, frozen=True):
    """What a bearer token states: `subject` of `issuer`. Of no issuer: a subject of the suite's own."""

    subject: str
    clock_offset: float
    expires_at: float
    issuer: str = ""
    version: int = 0


class Issuer(Struct, frozen=True):
    """Whose tokens are believed: what they must state, and the keys that sign them."""

    provider: Trusted
    keys: Keys
    local: bool = False


class Tokens:
    """Checks bearer tokens. One that passed is remembered until it expires or its issuer's keys change."""

    def __init__(self, settings: Settings) -> None:
        self.issuers = {one.issuer: Issuer(one, FetchedKeys(one)) for one in trusted(settings)} | _local(settings)
        self.checked: OrderedDict[str, Token] = OrderedDict()

    def kept(self, text: str) -> Token | None:
        """What a token states that passed before and still does."""
        token = self.checked.get(text)
        stands = token is not None and token.expires_at + CLOCK_SKEW_SECONDS > time.time() and self._stands(token)
        return token if stands else None

    async def check(self, text: str) -> Token:
        """What the token states; `Denied` for anything that is not in order, `Unavailable` when its issuer's keys cannot be had."""
        token = self.checked.get(text)
        if token is None or not self._stands(token):
            self.checked.pop(text, None)
            try:
                token = await self._read(text)
            except (JoseError, msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
                logger().info("token refused", why=str(error) if isinstance(error, Untrusted) else type(error).__name__)
                raise unauthenticated("this token cannot be trusted") from None
            self.checked[text] = token
            if len(self.checked) > KEPT_MAX:
                self.checked.popitem(last=False)
        if token.expires_at + CLOCK_SKEW_SECONDS <= time.time():
            self.checked.pop(text, None)
            raise unauthenticated("this token has expired")
        return token

    def provider(self, token: Token) -> Trusted:
        """Who vouches for the token."""
        return self.issuers[token.issuer or LOCAL].provider

    def _stands(self, token: Token) -> bool:
        keys = self.issuers[token.issuer or LOCAL].keys
        return keys.current() and keys.version == token.version

    async def _read(self, text: str) -> Token:
        if len(text) > TOKEN_LENGTH_MAX or text.count(".") != 2:
            raise Untrusted("form")
        parts = text.split(".")
        issuer = self.issuers.get(msgspec.json.decode(_decoded(parts[1]), type=Named).iss)
        if issuer is None:
            raise Untrusted("issuer")
        header = msgspec.json.decode(_decoded(parts[0]), type=Header)
        if header.alg not in issuer.provider.algorithms:
            raise Untrusted("algorithm")
        if header.typ.lower() not in TYPES:
            raise Untrusted("type")
        key = await issuer.keys.find(header.kid, header.alg)
        if key is None:
            raise Untrusted("key")
        version = issuer.keys.version
        signed = jws.deserialize_compact(text, key, algorithms=[header.alg])
        return _stated(issuer, msgspec.json.decode(signed.payload, type=Claims), version)


def _stated(issuer: Issuer, claims: Claims, version: int) -> Token:
    provider = issuer.provider
    if claims.iss != provider.issuer:
        raise Untrusted("issuer")
    if provider.audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise Untrusted("audience")
    if not claims.sub.isprintable() or claims.sub != claims.sub.strip() or not 0 < len(claims.sub) <= SUBJECT_LENGTH_MAX:
        raise Untrusted("subject")
    if max(claims.nbf or 0.0, claims.iat or 0.0) - CLOCK_SKEW_SECONDS > time.time():
        raise Untrusted("not valid yet")
    if claims.cnf is not None:
        # Whoever shows it would have to prove that they hold a key, which a bearer does not.
        raise Untrusted("bound to a key")
    if claims.clock_offset and not issuer.local:
        raise Untrusted("only the local issuer moves clocks")
    return Token(claims.sub, claims.clock_offset, claims.exp, "" if issuer.local else provider.issuer, version)


class Untrusted(ValueError):
    """A token is not believed; the word says for what, to whoever reads the log."""


def unauthenticated(message: str) -> Denied:
    """What is said to whoever shows a token that is not in order; not why."""
    return Denied("UNAUTHENTICATED", message)


def _decoded(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except Base64Error:
        raise Untrusted("form") from None


def _local(settings: Settings) -> dict[str, Issuer]:
    try:
        given: Any = msgspec.json.decode(settings.token_keys)
        keys = [OKPKey.import_key(key) for key in given["keys"]]
    except (JoseError, msgspec.DecodeError, ValueError, TypeError, KeyError):
        raise SettingsError("QUANYU_TOKEN_KEYS is not a JSON Web Key Set") from None
    if not keys:
        return {}
    if settings.env != "development":
        raise SettingsError("QUANYU_TOKEN_KEYS names a local issuer, which is for development; unset it in production")
    provider = Trusted(issuer=LOCAL, audience=AUDIENCE, algorithms=frozenset({"Ed25519"}))
    return {LOCAL: Issuer(provider, Keys(keys), local=True)}
