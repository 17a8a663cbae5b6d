"""Identity providers: which of them are believed, and the keys they sign with.

Keys are fetched when the first token comes, once more behind the requests when they are older than `FRESH_SECONDS`, and at once when a
token names a key that is not among them: however many such tokens come, at most every `REFETCH_SECONDS`. While a provider is away its
last good keys serve, until they are `OFFLINE_SECONDS` old.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import httpx
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from msgspec import Meta, Struct

from services.kit.errors import Unavailable
from services.kit.logs import logger
from services.kit.settings import Settings, SettingsError

FRESH_SECONDS = 600.0
REFETCH_SECONDS = 5.0
OFFLINE_SECONDS = 12 * 3600.0
FETCH_SECONDS_MAX = 3.0
FETCH_BYTES_MAX = 256 * 1024
KEYS_MAX = 100
RSA_BITS_MIN = 2048

Key: TypeAlias = RSAKey | ECKey | OKPKey
Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]  # fmt: skip
"""Signatures only: a shared secret proves nothing to a third party, and `none` nothing to anybody."""
KINDS: dict[str, type[Key]] = {"RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}
"""The kind of key an algorithm takes, by the first letters of its name."""


class Trusted(Struct, frozen=True, forbid_unknown_fields=True):
    """One provider of QUANYU_OIDC_ISSUERS, as JSON."""

    issuer: Annotated[str, Meta(pattern=r"^https?://[^\s?#]+$", max_length=100)]
    """As it stands in `iss`."""
    audience: Annotated[str, Meta(min_length=1, max_length=200)]
    """What `aud` must name."""
    jwks_uri: Annotated[str, Meta(pattern=r"^$|^https?://\S+$")] = ""
    """Where its keys are; empty: as its discovery document says."""
    algorithms: frozenset[Algorithm] = frozenset({"RS256", "PS256", "ES256"})
    people: frozenset[Literal["staff", "consumers"]] = frozenset({"staff", "consumers"})
    """Whom it vouches for. One provider at most vouches for staff: their subjects are known without their issuer."""
    operators: frozenset[str] = frozenset()
    """Subjects of those who run the installation: who else could give the first of them their role?"""


def trusted(settings: Settings) -> tuple[Trusted, ...]:
    """The providers that are believed; SettingsError when they are not stated well."""
    try:
        given = msgspec.json.decode(settings.oidc_issuers, type=tuple[Trusted, ...])
    except msgspec.DecodeError as error:
        raise SettingsError(f"QUANYU_OIDC_ISSUERS: {error}") from None
    if len({one.issuer for one in given}) < len(given):
        raise SettingsError("QUANYU_OIDC_ISSUERS names an issuer twice")
    if sum("staff" in one.people for one in given) > 1:
        raise SettingsError('QUANYU_OIDC_ISSUERS: one issuer at most vouches for staff; give the others "people": ["consumers"]')
    for one in given:
        if not one.algorithms:
            raise SettingsError("QUANYU_OIDC_ISSUERS: an issuer without algorithms has no tokens")
        if settings.env == "production" and not all(uri.startswith("https://") for uri in (one.issuer, one.jwks_uri or one.issuer)):
            raise SettingsError("QUANYU_OIDC_ISSUERS: in production an issuer and its keys are reached by https")
    return given


class Keys:
    """The public keys of an issuer. `version` changes with them, so that whoever remembers a token knows what it was checked by."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys, self.version = tuple(keys), 0

    def current(self) -> bool:
        """Whether these keys may still be believed."""
        return True

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The one key that is meant; None when there is none, or without `kid` several."""
        kind = KINDS.get(algorithm[:2])
        fitting = [key for key in self.keys if isinstance(key, kind or ()) and key.alg in (None, algorithm)]
        found = [key for key in fitting if key.kid == kid] if kid is not None else fitting
        return found[0] if len(found) == 1 else None


class FetchedKeys(Keys):
    """The keys that a provider publishes."""

    def __init__(self, provider: Trusted) -> None:
        super().__init__()
        self.provider = provider
        self.fetched_at = self.tried_at = -math.inf
        self.away = False
        self.fetching: asyncio.Task[None] | None = None

    def current(self) -> bool:
        """Whether these keys may still be believed; begins to fetch them again when they are no longer fresh."""
        age = time.monotonic() - self.fetched_at
        if FRESH_SECONDS < age <= OFFLINE_SECONDS:
            self._begin()
        return age <= OFFLINE_SECONDS

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The same; `Unavailable` when the provider would have to be asked and is away."""
        if not self.current():
            await self._fetched()
            if not self.current():
                raise self._unavailable()
        found = await super().find(kid, algorithm)
        if found is None:
            await self._fetched()
            found = await super().find(kid, algorithm)
            if found is None and self.away:
                raise self._unavailable()
        return found

    def _unavailable(self) -> Unavailable:
        return Unavailable("ISSUER_AWAY", "the identity provider does not answer; try again soon")

    async def _fetched(self) -> None:
        """Waits for the keys to be fetched, unless that was tried a moment ago."""
        if task := self._begin():
            await asyncio.shield(task)

    def _begin(self) -> asyncio.Task[None] | None:
        at = time.monotonic()
        if self.fetching is None and at - self.tried_at >= REFETCH_SECONDS:
            self.tried_at = at
            self.fetching = asyncio.create_task(self._fetch())
            self.fetching.add_done_callback(self._ended)
        return self.fetching

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.fetching = None

    async def _fetch(self) -> None:
        began_at = time.monotonic()
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX), httpx.AsyncClient(timeout=FETCH_SECONDS_MAX) as http:
                given = await _document(http, self.provider.jwks_uri or await self._discovered(http))
            keys = usable(given["keys"])
            if not keys:
                raise ValueError("no key that can be used")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, LookupError, TypeError, RecursionError, OSError) as error:
            self.away = True
            logger().warning("identity provider is away", issuer=self.provider.issuer, why=f"{type(error).__name__}: {error}"[:200])
            return
        self.away = False
        self._believe(keys, began_at)

    def _believe(self, keys: Sequence[Key], fetched_at: float) -> None:
        if {key.thumbprint() for key in keys} != {key.thumbprint() for key in self.keys}:
            logger().info("keys of identity provider", issuer=self.provider.issuer, keys=[key.kid for key in keys])
            self.version += 1
        self.keys, self.fetched_at = tuple(keys), fetched_at

    async def _discovered(self, http: httpx.AsyncClient) -> str:
        stated = await _document(http, f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration")
        uri = stated["jwks_uri"]
        if stated["issuer"] != self.provider.issuer:
            raise ValueError("the discovery document is another issuer's")
        if self.provider.issuer.startswith("https://") and not uri.startswith("https://"):
            raise ValueError("the keys are not reached by https")
        return str(uri)


async def _document(http: httpx.AsyncClient, uri: str) -> dict[str, Any]:
    body = bytearray()
    async with http.stream("GET", uri, headers={"accept": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"status {response.status_code}")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > FETCH_BYTES_MAX:
                raise ValueError(f"more than {FETCH_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def usable(given: list[dict[str, Any]]) -> list[Key]:
    """The keys of a JWK set that can check signatures; others (to encrypt, too short, of unknown kinds) are passed over."""
    keys: list[Key] = []
    kinds = {kind.key_type: kind for kind in KINDS.values()}
    for one in given[:KEYS_MAX]:
        try:
            key = kinds[one["kty"]].import_key(one)
        except (JoseError, ValueError, KeyError, TypeError):
            continue
        if one.get("use", "sig") != "sig" or "verify" not in one.get("key_ops", ["verify"]):
            continue
        if isinstance(key, RSAKey) and key.public_key.key_size < RSA_BITS_MIN:
            continue
        keys.append(key)
    return keys
