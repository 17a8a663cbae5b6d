"""Who is connected to a gateway process: how many of an address, and what waits for those that are slow to take it.

All that is said is written at once as far as a client takes it; what is left waits in this process's memory, and is counted. Who takes
nothing of it is cut off after a time, and before that whoever keeps the most for the longest, as soon as it is too much in all.
"""

import asyncio

from prometheus_client import Counter
from uvicorn.middleware.proxy_headers import _TrustedHosts

from gateway.limits.rate_limit import network
from gateway.observability.coalesced_log import CoalescedLog
from gateway.places import Places
from services.kit.errors import Overloaded
from services.kit.settings import Settings, SettingsError

CONNECTIONS_MAX = 4_096
STALL_SECONDS_MAX = 20.0
STALL_BYTES_MIN = 64 * 1024
"""A client that takes less in that time of what waits for it is cut off. Closing the connection would wait for it to take the rest."""
UNSENT_BYTES_MAX = 96 * 1024 * 1024
"""Of all of them: a fifth of the least memory that a gateway is deployed with, and more than a thousand pages of a front end."""
UNSENT_BYTES_EACH = 32 * 1024 * 1024
"""Of one: more than the dearest operation answers, unless its texts are long."""

REFUSED = Counter(
    "quanyu_graphql_connections_refused_total", "Connections that came while there were too many, in all or of their address."
)
CUT_OFF = Counter("quanyu_graphql_connections_cut_off_total", "Connections whose clients did not take what they were told.")


class Peers:
    """The connections of one gateway process."""

    def __init__(self, settings: Settings) -> None:
        self.places = Places(CONNECTIONS_MAX, settings.connections_address, "connections")
        self.proxies = _TrustedHosts(settings.trusted_proxies)  # the same judgement as on what they say of whom they stand for
        if self.proxies.always_trust and settings.env == "production":
            raise SettingsError("QUANYU_TRUSTED_PROXIES: * believes what callers say of themselves; name the proxies before the gateway")
        # Taken for names, they would be believed by nobody: whoever comes by such a proxy would be one address with all others.
        if unknown := sorted(self.proxies.trusted_literals - {""}):
            raise SettingsError(f"QUANYU_TRUSTED_PROXIES: {unknown[0]!r} is no address or network; write it like 10.0.0.0/8")
        self.body_bytes_max = settings.limit_body_bytes
        self.unsent_max, self.unsent_each = UNSENT_BYTES_MAX, UNSENT_BYTES_EACH
        self.slow: set[Peer] = set()
        self.unsent = 0
        """Bytes that wait for the slow ones."""
        self.refused, self.unread = CoalescedLog("connections refused"), CoalescedLog("requests that are no HTTP")

    def key(self, address: str) -> str:
        """Whose connection it is. Behind a proxy that is believed, nobody's in particular."""
        return "" if address in self.proxies else network(address)

    def admit(self, key: str) -> bool:
        """Takes a place, if there is one."""
        try:
            self.places.take(key)
        except Overloaded:
            REFUSED.inc()
            return False
        return True

    def weigh(self, peer: "Peer") -> None:
        """Counts anew what waits for a slow one. Whoever lets too much wait is cut off."""
        self._count(peer)
        if peer.unsent > self.unsent_each:
            self.cut_off(peer)
        elif self.unsent > self.unsent_max:
            for each in self.slow:
                self._count(each)
            while self.unsent > self.unsent_max:
                self.cut_off(max(self.slow, key=Peer.burden))

    def forget(self, peer: "Peer") -> None:
        """Nothing waits for it any more."""
        self.slow.discard(peer)
        self.unsent -= peer.unsent
        peer.unsent = 0

    def cut_off(self, peer: "Peer") -> None:
        """Ends the connection and gives up what waits for it."""
        CUT_OFF.inc()
        self.forget(peer)
        # It may be in the middle of writing.
        peer.loop.call_soon(peer.transport.abort)

    def _count(self, peer: "Peer") -> None:
        unsent = peer.waiting()
        self.slow.add(peer)
        self.unsent += unsent - peer.unsent
        peer.unsent = unsent


class Peer(asyncio.Protocol):
    """What the protocols of all connections do, as a mixin."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    peers: Peers
    key: str | None = None
    """Under which it has its place; None: it has none."""
    stalling: asyncio.TimerHandle | None = None
    """While its client is slow to take what waits for it."""
    slow_since = 0.0
    unsent = 0

    def waiting(self) -> int:
        """Bytes that wait for the client."""
        return self.transport.get_write_buffer_size()

    def burden(self) -> tuple[float, int]:
        """How much it has let wait, and for how long."""
        return self.unsent * (self.loop.time() - self.slow_since), self.unsent

    def pause_writing(self) -> None:
        super().pause_writing()
        self.slow_since = self.loop.time()
        self._look_again()
        self.peers.weigh(self)

    def resume_writing(self) -> None:
        self._moved()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._moved()
        if self.key is not None:
            self.peers.places.leave(self.key)
            self.key = None
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self.stalling = self.loop.call_later(STALL_SECONDS_MAX, self._look, self.transport.get_write_buffer_size())

    def _look(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() <= waited - STALL_BYTES_MIN:
            self._look_again()
        else:
            self.peers.cut_off(self)

    def _moved(self) -> None:
        if self.stalling is not None:
            self.stalling.cancel()
            self.stalling = None
            self.peers.forget(self)
