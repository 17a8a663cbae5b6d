"""Issuers of tokens: a real identity provider, servers that publish keys, and forged tokens."""

import asyncio
import json
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from gateway.auth.bearer_tokens import TokenVerifier
from services.kit.settings import Settings
from services.local.mongod import free_port
from tests.conformance.provider import Provider, providing


@cache
def rsa_key(bits: int = 2048) -> RSAKey:
    """Returns a key that no provider publishes; generating it is slow."""
    with warnings.catch_warnings(action="ignore"):
        return RSAKey.generate_key(bits, {"kid": "k"})


@pytest.fixture(scope="module")
def process(node: str) -> Iterator[Provider]:
    with providing(node, free_port()) as provider:
        yield provider


@pytest.fixture
def provider(process: Provider) -> Provider:
    process.told("start")
    return process


def issuer_settings(*issuers: str, **changes: Any) -> str:
    """Returns QUANYU_OIDC_ISSUERS for these issuers; all except the first are for consumers only."""
    consumers_only = {"people": ["consumers"]}
    providers = [
        {"issuer": issuer, "audience": "quanyu"} | (consumers_only if index else {}) | changes for index, issuer in enumerate(issuers)
    ]
    return json.dumps(providers)


def create_verifier(*issuers: str, **changes: Any) -> TokenVerifier:
    return TokenVerifier(Settings(oidc_issuers=issuer_settings(*issuers, **changes)))


def forge_token(provider: Provider, key: Any, algorithm: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """Returns a token like the provider's, signed by another key."""
    now = int(time.time())
    claims = {"iss": provider.issuer, "aud": "quanyu", "sub": "anna", "iat": now, "exp": now + 60} | changes
    return jwt.encode({"alg": algorithm, "typ": "at+jwt"} | (header or {}), claims, key, algorithms=[algorithm])


def create_unsigned_token(provider: Provider, **header: Any) -> str:
    parts = ({"alg": "none", "typ": "at+jwt"} | header, {"iss": provider.issuer, "aud": "quanyu", "sub": "anna", "exp": time.time() + 60})
    return ".".join(base64(json.dumps(part).encode()) for part in parts) + "."


def base64(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


@asynccontextmanager
async def serve_bytes(body: bytes, status: str = "200 OK", headers: str = "") -> AsyncIterator[str]:
    """Yields the address of a server that answers every request with this body; without a body it never answers."""

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
