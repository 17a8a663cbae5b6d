"""ASGI application of the gateway: its middleware and routes, and the objects that they share from start to end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway.auth.sessions import SessionResolver
from gateway.execution import trusted_documents
from gateway.execution.executor import Executor
from gateway.execution.pipeline import OperationPipeline
from gateway.graph import schema
from gateway.http import graphiql
from gateway.http.endpoint import GraphQLEndpoint, GraphQLMiddleware
from gateway.http.errors import HTTPErrorHandler
from gateway.http.language import LanguageMiddleware
from gateway.http.load_shedding import LoadSheddingMiddleware
from gateway.http.request import PREFLIGHT, RequestParser
from gateway.http.security_headers import SecurityHeadersMiddleware
from gateway.http.webhooks import Webhooks
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.limits.document import Limits
from gateway.rpc.clients import Clients
from gateway.subscriptions.lifetime import LifetimeRegistry
from gateway.subscriptions.runner import SubscriptionRunner
from gateway.subscriptions.sse import EventStreamEndpoint
from gateway.subscriptions.websocket import WebSocketEndpoint
from services.kit.settings import Settings

CORS_SECONDS = 600
"""Browsers may cache the response to a preflight request this long."""
PATH = "/graphql"
WEBHOOKS = "/webhooks"


def build(settings: Settings) -> Starlette:
    """Returns the application, whose channels open and close with it. Raises SettingsError if a setting cannot be used."""
    clients = Clients(settings)
    has_introspection = settings.introspection == "on" or (settings.introspection == "auto" and settings.env == "development")
    executor = Executor(schema.build(), suggestions=False, limits=Limits.of(settings), introspection=has_introspection)
    parser = RequestParser(settings, trusted_documents.load(settings))
    sessions = SessionResolver(settings, clients)
    operations, lifetimes = OperationPipeline(executor, sessions, clients, settings), LifetimeRegistry()
    runner = SubscriptionRunner(operations, settings)
    endpoint = GraphQLEndpoint(operations, parser, EventStreamEndpoint(operations, runner, lifetimes, parser), settings)
    websockets = WebSocketEndpoint(operations, runner, lifetimes, parser, settings)
    slots = ConcurrencyLimiter(settings.operations_max, settings.operations_max, "operations")

    async def get_health(request: Request) -> Response:
        """Returns 200 while the process runs."""
        return JSONResponse({"status": "ok"})

    async def get_readiness(request: Request) -> Response:
        """Returns which services are ready, and 503 unless all are."""
        services = await clients.ready()
        return JSONResponse({"ready": all(services.values()), "services": services}, 200 if all(services.values()) else 503)

    async def get_metrics(request: Request) -> Response:
        """Returns the metrics in development; in production they are served at QUANYU_METRICS_LISTEN only."""
        operations.log.flush()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await clients.open()
        try:
            yield
        finally:
            await runner.wait_for_mutations()
            operations.log.close()
            await clients.close()

    async def serve_websocket(websocket: WebSocket) -> None:
        await websockets(websocket)

    graphql = Route(PATH, endpoint, methods=["GET", "POST"])
    assert graphql.methods is not None
    graphql.methods.discard("HEAD")  # a HEAD request would execute its operation
    routes: list[BaseRoute] = [
        graphql,
        WebSocketRoute(PATH, serve_websocket),
        Route(f"{WEBHOOKS}/{{owner}}/{{sender}}", Webhooks(operations, parser), methods=["POST"]),
        Route("/health", get_health),
        Route("/ready", get_readiness),
    ]
    if endpoint.has_graphiql:
        routes += [graphiql.files(), Route("/metrics", get_metrics)]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: HTTPErrorHandler(PATH)})
    app.middleware_stack = _stack(app.build_middleware_stack(), settings, endpoint, slots)
    app.state.clients, app.state.executor, app.state.sessions, app.state.rates = clients, executor, sessions, operations.rates
    app.state.lifetimes, app.state.runner, app.state.slots = lifetimes, runner, slots
    return app


def _stack(routes: ASGIApp, settings: Settings, endpoint: ASGIApp, slots: ConcurrencyLimiter) -> ASGIApp:
    """Returns the middleware around Starlette's own, which costs a POST request to the endpoint 20 microseconds."""
    app: Any = ProxyHeadersMiddleware(routes, settings.trusted_proxies)  # type: ignore[arg-type]
    app = GraphQLMiddleware(app, endpoint=endpoint, path=PATH)
    app = LoadSheddingMiddleware(app, slots=slots, path=PATH, prefix=f"{WEBHOOKS}/", body_bytes_max=settings.limit_body_bytes)
    app = LanguageMiddleware(app)
    app = SecurityHeadersMiddleware(app, is_production=settings.env == "production")
    if not settings.origins:
        return app  # type: ignore[no-any-return]
    return CORSMiddleware(
        app,
        allow_origins=sorted(settings.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", *PREFLIGHT],
        expose_headers=["retry-after"],
        max_age=CORS_SECONDS,
    )
