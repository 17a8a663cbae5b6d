"""OpenID Connect providers: which ones the installation trusts, and their keys as JSON Web Key Sets (JWKS).

The first token of a provider fetches its keys. Keys older than `REFRESH_SECONDS` (10 min) are fetched again in the background. A token with
an unknown key fetches them at once, at most every `REFETCH_SECONDS` (5 s). While a provider is unavailable, its last keys stay valid until
they are `STALE_SECONDS_MAX` (12 h) old.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias

import httpx
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from msgspec import Meta, Struct

from services.kit.errors import Unavailable
from services.kit.observability.logs import logger
from services.kit.settings import Settings, SettingsError

REFRESH_SECONDS = 600.0
"""Keys of this age are fetched again in the background."""
REFETCH_SECONDS = 5.0
"""The keys of one provider are fetched at most once in this time."""
STALE_SECONDS_MAX = 12 * 3600.0
"""While a provider is unavailable, its last keys stay valid this long."""
FETCH_SECONDS_MAX = 3.0
"""A fetch of keys may take this long."""
FETCH_BYTES_MAX = 256 * 1024
"""A document of a provider may have this many bytes."""
KEYS_MAX = 100
"""This many keys of one provider are used."""
RSA_BITS_MIN = 2048
"""Shorter RSA keys are ignored."""

Key: TypeAlias = RSAKey | ECKey | OKPKey
Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]  # fmt: skip
"""Asymmetric signatures only: each holder of a shared secret could sign with it, and `none` signs nothing."""
KEY_TYPES: dict[str, type[Key]] = {"RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}
"""The type of key that an algorithm takes, by the first two letters of its name."""


class Provider(Struct, frozen=True, forbid_unknown_fields=True):
    """One provider of QUANYU_OIDC_ISSUERS, as JSON."""

    issuer: Annotated[str, Meta(pattern=r"^https?://[^\s?#]+$", max_length=100)]
    """The exact value of the claim `iss`."""
    audience: Annotated[str, Meta(min_length=1, max_length=200)]
    """The value that the claim `aud` must contain."""
    jwks_uri: Annotated[str, Meta(pattern=r"^$|^https?://\S+$")] = ""
    """The address of its keys; empty: taken from its discovery document."""
    algorithms: frozenset[Algorithm] = frozenset({"RS256", "PS256", "ES256"})
    people: frozenset[Literal["staff", "consumers"]] = frozenset({"staff", "consumers"})
    """The kinds of people it signs in. At most one provider signs in staff, because staff are found by subject without issuer."""
    operators: frozenset[str] = frozenset()
    """Subjects that are operators by configuration: only an operator can grant that role, so the first one needs this list."""


def load_providers(settings: Settings) -> tuple[Provider, ...]:
    """Reads QUANYU_OIDC_ISSUERS; raises SettingsError when a value cannot be used."""
    try:
        providers = msgspec.json.decode(settings.oidc_issuers, type=tuple[Provider, ...])
    except msgspec.DecodeError as error:
        raise SettingsError(f"QUANYU_OIDC_ISSUERS: {error}") from None
    if len({provider.issuer for provider in providers}) < len(providers):
        raise SettingsError("QUANYU_OIDC_ISSUERS names an issuer twice")
    if sum("staff" in provider.people for provider in providers) > 1:
        raise SettingsError('QUANYU_OIDC_ISSUERS: at most one issuer may sign in staff; give the others "people": ["consumers"]')
    for provider in providers:
        if not provider.algorithms:
            raise SettingsError("QUANYU_OIDC_ISSUERS: `algorithms` must name at least one algorithm")
        uris = (provider.issuer, provider.jwks_uri or provider.issuer)
        if settings.env == "production" and not all(uri.startswith("https://") for uri in uris):
            raise SettingsError("QUANYU_OIDC_ISSUERS: in production, `issuer` and `jwks_uri` must start with https://")
    return providers


class JWKS:
    """The public keys of an issuer. `version` changes with the keys, so that a cached token is verified again by new ones."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys, self.version = tuple(keys), 0

    def is_current(self) -> bool:
        """Returns whether these keys are still valid."""
        return True

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """Returns the key for `kid` and the algorithm; None when no key fits, or when several fit a token without `kid`."""
        type_ = KEY_TYPES.get(algorithm[:2])
        found = [key for key in self.keys if isinstance(key, type_ or ()) and key.alg in (None, algorithm) and kid in (None, key.kid)]
        return found[0] if len(found) == 1 else None


class RemoteJWKS(JWKS):
    """The keys that a provider publishes, in memory."""

    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self.provider = provider
        self.fetched_at = self.tried_at = -math.inf
        self.is_unavailable = False
        self.fetching: asyncio.Task[None] | None = None

    def is_current(self) -> bool:
        """Returns whether these keys are still valid; starts to fetch them again when they are due."""
        age = time.monotonic() - self.fetched_at
        if REFRESH_SECONDS < age <= STALE_SECONDS_MAX:
            self._start_fetch()
        return age <= STALE_SECONDS_MAX

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """Does the same; raises `Unavailable` when the keys must be fetched and the provider does not answer."""
        if not self.is_current():
            await self._refresh()
            if not self.is_current():
                raise _issuer_unavailable()
        found = await super().find(kid, algorithm)
        if found is None:
            await self._refresh()
            found = await super().find(kid, algorithm)
            if found is None and self.is_unavailable:
                raise _issuer_unavailable()
        return found

    async def _refresh(self) -> None:
        """Waits until the keys are fetched; returns at once when the last attempt is less than `REFETCH_SECONDS` ago."""
        if task := self._start_fetch():
            await asyncio.shield(task)

    def _start_fetch(self) -> asyncio.Task[None] | None:
        now = time.monotonic()
        if self.fetching is None and now - self.tried_at >= REFETCH_SECONDS:
            self.tried_at = now
            self.fetching = asyncio.create_task(self._fetch())
            self.fetching.add_done_callback(self._clear_fetch)
        return self.fetching

    def _clear_fetch(self, task: asyncio.Task[None]) -> None:
        self.fetching = None

    async def _fetch(self) -> None:
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX), httpx.AsyncClient(timeout=FETCH_SECONDS_MAX) as http:
                document = await _fetch_json(http, self.provider.jwks_uri or await self._discover_jwks_uri(http))
            keys = import_keys(document["keys"])
            if not keys:
                raise ValueError("no usable key")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, LookupError, TypeError, RecursionError, OSError) as error:
            self.is_unavailable = True
            reason = f"{type(error).__name__}: {error}"[:200]
            logger().warning("identity provider is unavailable", issuer=self.provider.issuer, reason=reason)
            return
        if {key.thumbprint() for key in keys} != {key.thumbprint() for key in self.keys}:
            logger().info("keys of identity provider changed", issuer=self.provider.issuer, keys=[key.kid for key in keys])
            self.version += 1
        self.keys, self.fetched_at, self.is_unavailable = tuple(keys), started_at, False

    async def _discover_jwks_uri(self, http: httpx.AsyncClient) -> str:
        document = await _fetch_json(http, f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration")
        uri = document["jwks_uri"]
        if document["issuer"] != self.provider.issuer:
            raise ValueError("the discovery document names another issuer")
        if self.provider.issuer.startswith("https://") and not uri.startswith("https://"):
            raise ValueError("`jwks_uri` does not start with https://")
        return str(uri)


def _issuer_unavailable() -> Unavailable:
    return Unavailable("ISSUER_AWAY", "The identity provider does not answer. Retry later.")


async def _fetch_json(http: httpx.AsyncClient, uri: str) -> dict[str, Any]:
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


def import_keys(jwks: list[dict[str, Any]]) -> list[Key]:
    """Returns the keys that can verify signatures; skips keys for encryption, short RSA keys and unknown types."""
    keys: list[Key] = []
    types = {type_.key_type: type_ for type_ in KEY_TYPES.values()}
    for jwk in jwks[:KEYS_MAX]:
        try:
            key = types[jwk["kty"]].import_key(jwk)
        except (JoseError, ValueError, KeyError, TypeError):
            continue
        if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
            continue
        if isinstance(key, RSAKey) and key.public_key.key_size < RSA_BITS_MIN:
            continue
        keys.append(key)
    return keys
