"""Limits of the connections to one gateway process: their number per address, and the time that a client may take to read.

A write buffer holds the bytes that a client has not read. uvicorn writes no further message before the buffer is empty, so that one
connection holds at most one message. This module limits the size of that message (32 MB) and the time to read it (30 s).
"""

import asyncio

from prometheus_client import Counter

from gateway.limits.client_address import ClientAddresses
from gateway.limits.concurrency import ConcurrencyLimiter
from gateway.observability.coalesced_log import CoalescedLog
from services.kit.errors import Overloaded
from services.kit.settings import Settings

CONNECTIONS_MAX = 4_096
"""A process accepts this many connections; further ones get 503."""
SEND_SECONDS_MAX = 30.0
"""A connection whose write buffer is not empty after this time is aborted."""
UNSENT_BYTES_MAX = 32 * 1024 * 1024
"""A connection with more bytes in its write buffer is aborted. Only responses with unusually long texts are larger."""

REJECTED = Counter(
    "quanyu_graphql_connections_rejected_total", "Connections rejected because too many are open, in total or from their address."
)
ABORTED = Counter("quanyu_graphql_connections_aborted_total", "Connections aborted because their clients did not read.")


class ConnectionLimits:
    """The connections of one process, and the log of those that are rejected."""

    def __init__(self, settings: Settings) -> None:
        self.slots = ConcurrencyLimiter(CONNECTIONS_MAX, settings.connections_address, "connections")
        self.addresses = ClientAddresses(settings)
        self.rejected, self.malformed = CoalescedLog("connections rejected"), CoalescedLog("malformed HTTP requests")


class LimitedConnection(asyncio.Protocol):
    """Mixin of a protocol: holds a slot of the limits, and aborts the connection if its client does not read."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    limits: ConnectionLimits
    key: str | None = None
    """The key of the slot; None: the connection has none."""
    send_timer: asyncio.TimerHandle | None = None

    def acquire_slot(self) -> bool:
        """Takes a slot. Returns whether one is free."""
        key = self.limits.addresses.connection_key(self.client[0] if self.client else "")
        try:
            self.limits.slots.acquire(key)
        except Overloaded:
            REJECTED.inc()
            return False
        self.key = key
        return True

    def release_slot(self) -> None:
        """Returns the slot, if it has one."""
        if self.key is not None:
            self.limits.slots.release(self.key)
            self.key = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_send_timer()
        self.release_slot()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        is_too_large = self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX
        self.send_timer = self.loop.call_later(0 if is_too_large else SEND_SECONDS_MAX, self._abort)

    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()

    def _abort(self) -> None:
        ABORTED.inc()
        self.transport.abort()

    def _stop_send_timer(self) -> None:
        if self.send_timer is not None:
            self.send_timer.cancel()
            self.send_timer = None
