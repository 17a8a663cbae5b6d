"""Process of the gateway: `python -m gateway`.

SIGTERM and SIGINT stop it: requests in progress end within `drain_seconds`, and the exit status is 0.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
import uvloop

from gateway.app import build
from gateway.http.connection_limits import ConnectionLimits
from gateway.http.protocol import BoundedHttpProtocol, BoundedWebSocketProtocol
from services.kit.observability import logs, telemetry
from services.kit.settings import Settings, SettingsError, load

BACKLOG = 2048
"""The kernel queues this many connections that are not accepted yet."""
PING_SECONDS = 20.0
"""A WebSocket gets a ping at this interval, and is closed if the client does not answer it within the same time."""


class Server(uvicorn.Server):
    """A uvicorn server that ends with status 0 after a signal; uvicorn itself would raise the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # The schema is never freed. Without this, each full collection would visit all of it, which takes some 100 ms.
        gc.collect()
        gc.freeze()
        if not self.should_exit:
            logs.logger().info("ready", address=self.config.app.state.address)  # type: ignore[union-attr]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn waits for responses in progress, and a subscription is one without end.
        await self.config.app.state.lifetimes.stop()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def listen(address: str) -> socket.socket:
    """Returns a listening socket at `host:port`. Raises OSError with the reason if it cannot listen there."""
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)), backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen at {address}: {error}") from None


def create_config(app: Any, settings: Settings) -> uvicorn.Config:
    """Returns the configuration of uvicorn."""
    limits = ConnectionLimits(settings)
    # A client could fill the log: uvicorn logs each malformed request (a warning) and each WebSocket message that is not UTF-8 (an error).
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(logging.ERROR)
    uvicorn_log.addFilter(_is_no_encoding_error)
    return uvicorn.Config(
        app,
        http=partial(BoundedHttpProtocol, limits=limits),  # type: ignore[arg-type]
        ws=partial(BoundedWebSocketProtocol, limits=limits),  # type: ignore[arg-type]
        ws_max_size=settings.limit_body_bytes,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application reads them, and only for requests without a cached session
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )


def _is_no_encoding_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError))


def serve(settings: Settings) -> None:
    """Serves requests until SIGTERM or SIGINT."""
    logs.configure(settings, "gateway")
    telemetry.serve_metrics(settings.metrics_listen)
    app = build(settings)
    config = create_config(app, settings)
    with listen(settings.gateway_listen) as listener:
        app.state.address = "{}:{}".format(*listener.getsockname()[:2])
        uvloop.run(Server(config).serve([listener]))


def main() -> None:
    """Serves. Exits with status 2 and one line if the process cannot start."""
    try:
        serve(load(os.environ))
    except (SettingsError, OSError) as error:
        print(f"gateway cannot start: {error}", file=sys.stderr)  # noqa: T201 - for the user of the command line
        sys.exit(2)


if __name__ == "__main__":
    main()
