"""Address of a client behind the trusted proxies (`QUANYU_TRUSTED_PROXIES`)."""

from typing import Any

from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway.limits.rate_limit import network
from services.kit.settings import Settings, SettingsError


class ClientAddresses:
    """Reads the address of a client. Raises SettingsError if the trusted proxies cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self.headers: Any = ProxyHeadersMiddleware(_ignore, settings.trusted_proxies)
        self.proxies = self.headers.trusted_hosts
        if self.proxies.always_trust and settings.env == "production":
            raise SettingsError("QUANYU_TRUSTED_PROXIES: * lets every client choose its address; name the proxies in front of the gateway")
        # uvicorn compares these literally with an address, so that they never match.
        if unknown := sorted(self.proxies.trusted_literals - {""}):
            raise SettingsError(f"QUANYU_TRUSTED_PROXIES: {unknown[0]!r} is no address or network; write it like 10.0.0.0/8")

    async def resolve(self, scope: Scope) -> str:
        """Returns the address of the client of a request; for a request by a trusted proxy, the one that it forwards."""
        await self.headers(scope, _ignore, _ignore)
        client = scope.get("client")
        return client[0] if client else ""

    def connection_key(self, host: str) -> str:
        """Returns the key that connections are counted by: the client's network, or empty for a trusted proxy."""
        return "" if host in self.proxies else network(host)


async def _ignore(*_: Any) -> None:
    """An ASGI application that does nothing: `ProxyHeadersMiddleware` changes the scope before it calls it."""
