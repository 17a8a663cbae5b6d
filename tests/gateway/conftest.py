"""The gateway in this process, before real services in this process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.app import build
from services.kit.runtime.runtime import SERVICES
from services.kit.settings import Settings
from services.local.keys import Keys
from services.local.mongod import free_port
from services.local.token import bearer
from tests.services.conftest import Start, keys, start

__all__ = ["keys", "start"]

GRAPHQL = "application/graphql-response+json"
OPERATIONS = Path(__file__).parents[1] / "stories" / "operations"
RESOLVING = {"ResolveGrantsRequest", "ResolveConsumerRequest"}
FAULTS = frozenset({"", "INTERNAL", "SERVICE_UNAVAILABLE", "DATABASE_UNAVAILABLE", "COMMIT_UNKNOWN", "DEADLINE_EXCEEDED"})
"""Codes of errors that nobody can cause by what they ask."""


class Gateway:
    """A running gateway and the ways a test speaks to it."""

    def __init__(self, app: Any, keys: Keys) -> None:
        self.app, self.keys = app, keys
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        self.called: list[str] = []
        call = app.state.clients.call

        def tapped(request: Any) -> Any:
            self.called.append(type(request).__name__)
            return call(request)

        app.state.clients.call = tapped

    def token(self, who: str, **options: Any) -> str:
        return bearer(self.keys.tokens, who, **options)

    async def post(self, body: Any, *, who: str = "", offset: float = 0.0, headers: dict[str, str] | None = None) -> httpx.Response:
        """A request; `who` is the subject of its token."""
        sent = {"accept": GRAPHQL} | (headers or {})
        if who:
            sent["authorization"] = f"Bearer {self.token(who, clock_offset=offset)}"
        return await self.http.post("/graphql", json=body, headers=sent)

    async def ask(self, query: str, variables: dict[str, Any] | None = None, *, who: str = "", offset: float = 0.0) -> dict[str, Any]:
        """The whole answer of a query or of an operation by its file's name."""
        if not query.lstrip().startswith(("{", "query", "mutation")):
            query = (OPERATIONS / f"{query}.graphql").read_text()
        self.called.clear()
        response = await self.post({"query": query, "variables": variables or {}}, who=who, offset=offset)
        return response.json()  # type: ignore[no-any-return]

    async def data(self, query: str, variables: dict[str, Any] | None = None, *, who: str = "", offset: float = 0.0) -> Any:
        """The data of an answer without errors."""
        answer = await self.ask(query, variables, who=who, offset=offset)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    @property
    def calls(self) -> list[str]:
        """The rpcs of the last question, but for those that tell who asks."""
        return [name.removesuffix("Request") for name in self.called if name not in RESOLVING]


Open = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def open_gateway(start: Start, settings: Settings, keys: Keys) -> AsyncIterator[Open]:
    """`await open_gateway("member", env="production")`: a gateway before these services; the others answer nobody."""
    async with AsyncExitStack() as stack:

        async def opened(*services: str, **changes: Any) -> Gateway:
            running = await start(*services)
            addresses = {f"{name}_address": f"127.0.0.1:{free_port()}" for name in SERVICES}
            addresses |= {f"{name}_address": service.address for name, service in running.items()}
            own = {"signing_key": keys.signing_setting("gateway"), "token_keys": keys.tokens_setting(), "deadline_seconds": 20.0}
            own |= {"rate_principal": 0.0, "rate_tenant": 0.0, "rate_address": 0.0, "log_format": "text"}
            app = build(msgspec.structs.replace(settings, **addresses | own | changes))
            await stack.enter_async_context(app.router.lifespan_context(app))
            gateway = Gateway(app, keys)
            await stack.enter_async_context(gateway.http)
            return gateway

        yield opened


@pytest.fixture
async def alone(open_gateway: Open) -> Gateway:
    """A gateway without any service."""
    return await open_gateway(deadline_seconds=2.0)
