"""Fixtures of a gateway in this process, in front of real services in this process."""

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
"""The codes of errors that no request can cause."""


class Gateway:
    """A running gateway, and methods that send requests to it."""

    def __init__(self, app: Any, keys: Keys) -> None:
        self.app, self.keys = app, keys
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        self.called: list[str] = []
        call = app.state.clients.call

        def record_call(request: Any) -> Any:
            self.called.append(type(request).__name__)
            return call(request)

        app.state.clients.call = record_call

    def token(self, subject: str, **options: Any) -> str:
        return bearer(self.keys.tokens, subject, **options)

    async def post(self, body: Any, *, subject: str = "", offset: float = 0.0, headers: dict[str, str] | None = None) -> httpx.Response:
        """Posts a request; `subject`: of its token."""
        sent = {"accept": GRAPHQL} | (headers or {})
        if subject:
            sent["authorization"] = f"Bearer {self.token(subject, clock_offset=offset)}"
        return await self.http.post("/graphql", json=body, headers=sent)

    async def ask(self, query: str, variables: dict[str, Any] | None = None, *, subject: str = "", offset: float = 0.0) -> dict[str, Any]:
        """Returns the response to an operation, given by its text or its file's name."""
        if not query.lstrip().startswith(("{", "query", "mutation")):
            query = (OPERATIONS / f"{query}.graphql").read_text()
        self.called.clear()
        response = await self.post({"query": query, "variables": variables or {}}, subject=subject, offset=offset)
        return response.json()  # type: ignore[no-any-return]

    async def data(self, query: str, variables: dict[str, Any] | None = None, *, subject: str = "", offset: float = 0.0) -> Any:
        """Returns the data of a response, which must have no errors."""
        answer = await self.ask(query, variables, subject=subject, offset=offset)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    @property
    def calls(self) -> list[str]:
        """The rpcs of the last operation, except those that resolve its session."""
        return [name.removesuffix("Request") for name in self.called if name not in RESOLVING]


Open = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def open_gateway(start: Start, settings: Settings, keys: Keys) -> AsyncIterator[Open]:
    """`await open_gateway("member", env="production")`: a gateway in front of these services; the others are unreachable."""
    async with AsyncExitStack() as stack:

        async def open_one(*services: str, **changes: Any) -> Gateway:
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

        yield open_one


@pytest.fixture
async def alone(open_gateway: Open) -> Gateway:
    """A gateway without any service."""
    return await open_gateway(deadline_seconds=2.0)
