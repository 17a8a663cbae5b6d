"""The gateway's application: routes, and what they stand on from start to end."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway import documents, errors, explorer, schema
from gateway.asked import PREFLIGHT, Reader
from gateway.auth.sessions import SessionResolver
from gateway.door import Door
from gateway.execution import Executor
from gateway.http import Endpoint
from gateway.limits.document import Limits
from gateway.observability.coalesced_log import CoalescedLog
from gateway.operations import Operations
from gateway.rpc.clients import Clients
from gateway.subscriptions.ending import Endings
from gateway.subscriptions.sse import EventStreams
from gateway.subscriptions.stream import Subscriptions
from gateway.subscriptions.websocket import WebSockets
from gateway.webhooks import Webhooks
from services.kit.settings import Settings

CORS_SECONDS = 600
PATH = "/graphql"
WEBHOOKS = "/webhooks"


class Misled:
    """Answers those who take a way that is none."""

    def __init__(self) -> None:
        self.all = CoalescedLog("requests misled")

    async def __call__(self, request: Request, failure: Exception) -> Response:
        assert isinstance(failure, HTTPException)
        code, words = "BAD_REQUEST", failure.detail
        if failure.status_code == 404:
            code, words = "NOT_FOUND", f"there is nothing here; the graph is at {PATH}"
        return JSONResponse(errors.without_operation(words, code, self.all.add()), failure.status_code, failure.headers)


class Gateway(Starlette):
    """Starlette's application, and what stands before it."""

    entrance: ASGIApp

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        return self.entrance(scope, receive, send)


def build(settings: Settings) -> Gateway:
    """The application. SettingsError when a setting cannot be used; channels open when it starts and close when it ends."""
    clients = Clients(settings)
    told = settings.introspection == "on" or (settings.introspection == "auto" and settings.env == "development")
    executor = Executor(schema.build(), suggestions=False, limits=Limits.of(settings), introspection=told)
    reader = Reader(settings, documents.load(settings))
    sessions = SessionResolver(settings, clients)
    operations, endings = Operations(executor, sessions, clients, settings), Endings()
    subscriptions = Subscriptions(operations, settings)
    endpoint = Endpoint(operations, reader, EventStreams(operations, subscriptions, endings, reader), settings)
    websockets = WebSockets(operations, subscriptions, endings, reader, settings)

    async def health(request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        """The services answer too; which of them do."""
        services = await clients.ready()
        return JSONResponse({"ready": all(services.values()), "services": services}, 200 if all(services.values()) else 503)

    async def metrics(request: Request) -> Response:
        """For whoever develops; in production they are told at QUANYU_METRICS_LISTEN only."""
        operations.log.flush()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await clients.open()
        try:
            yield
        finally:
            await subscriptions.settled()
            operations.log.close()
            await clients.close()

    async def websocket(opened: WebSocket) -> None:
        await websockets(opened)

    graph = Route(PATH, endpoint, methods=["GET", "POST"])
    assert graph.methods is not None
    graph.methods.discard("HEAD")  # nobody asks the graph for headers, which an operation would have to be carried out for
    routes: list[BaseRoute] = [
        graph,
        WebSocketRoute(PATH, websocket),
        Route(f"{WEBHOOKS}/{{owner}}/{{sender}}", Webhooks(operations, reader), methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
    ]
    if endpoint.explorer:
        routes += [explorer.files(), Route("/metrics", metrics)]
    app = Gateway(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: Misled()})
    app.entrance = _entrance(super(Gateway, app).__call__, settings, endpoint)
    app.state.clients, app.state.executor, app.state.sessions, app.state.rates = clients, executor, sessions, operations.rates
    app.state.endings, app.state.subscriptions = endings, subscriptions
    return app


def _entrance(app: ASGIApp, settings: Settings, endpoint: Endpoint) -> ASGIApp:
    """The way in: to the routes behind all that stands before them."""
    forwarded: Any = ProxyHeadersMiddleware(app, settings.trusted_proxies)  # type: ignore[arg-type]
    door = Door(forwarded, settings, path=PATH, posted=endpoint, webhooks=f"{WEBHOOKS}/", outermost=not settings.origins)
    if not settings.origins:
        return door
    return CORSMiddleware(
        door,
        allow_origins=sorted(settings.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", *PREFLIGHT],
        expose_headers=["retry-after"],
        max_age=CORS_SECONDS,
    )
