"""Rate limiter: a token bucket for each principal, each tenant, and each address of anonymous requests.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm of ITU-T I.371). It is empty when that time
is more than `BURST_SECONDS` ahead. Each process has its own buckets: n replicas admit n times the rate.
"""

import ipaddress
import time
from collections.abc import Callable
from datetime import timedelta

from cachetools import LRUCache

from gateway.auth.sessions import Session
from services.kit.errors import Overloaded
from services.kit.settings import Settings

BURST_SECONDS = 2.0
BUCKETS_MAX = 10_000
"""The number of buckets of one kind. The least recently used one is dropped first; by then it is usually full."""
COLD_WEIGHT_PER_SECOND = 1_000.0
"""The operations that one second of parsing, validating and compiling counts as."""
IPV6_PREFIX = 64
"""The bits of an IPv6 address that identify a caller, who can choose all others."""


class Buckets:
    """The buckets of one kind, each with `per_second` operations; 0 is no bound."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.clock = per_second, clock
        self.full_at: LRUCache[str, float] = LRUCache(BUCKETS_MAX)

    def admit(self, key: str) -> float:
        """Takes one operation and returns 0; takes nothing from an empty bucket and returns the seconds to wait."""
        if not self.per_second:
            return 0.0
        now = self.clock()
        full_at = self.full_at.get(key, now)
        step = 1.0 / self.per_second
        if full_at > now and (wait := full_at + step - now - BURST_SECONDS) > 0:
            return wait
        self.full_at[key] = max(full_at, now) + step
        return 0.0

    def charge(self, key: str, operations: float) -> None:
        """Takes as many operations, also from an empty bucket."""
        if self.per_second:
            now = self.clock()
            self.full_at[key] = max(self.full_at.get(key, now), now) + operations / self.per_second


Account = tuple[tuple[Buckets, str], ...]
"""The buckets that an operation takes from, each with its key."""


class Rates:
    """All buckets of a gateway process. An empty bucket raises `Overloaded` (RATE_LIMITED)."""

    def __init__(self, settings: Settings) -> None:
        self.principals, self.tenants = Buckets(settings.rate_principal), Buckets(settings.rate_tenant)
        self.addresses = Buckets(settings.rate_address)

    def admit(self, session: Session, address: str) -> Account:
        """Counts an operation of a principal and its tenant, or of the address of an anonymous request."""
        if session.principal is None:
            return self.admit_address(address)
        account: Account = ((self.principals, session.principal.id),)
        if session.tenant_id:
            account = (*account, (self.tenants, session.tenant_id))
        return _admitted(account)

    def admit_address(self, address: str) -> Account:
        """Counts a request of an address."""
        return _admitted(((self.addresses, network(address)),))


def charge(account: Account, operations: float) -> None:
    """Charges more work of a running operation, which delays the next ones."""
    for buckets, key in account:
        buckets.charge(key, operations)


def _admitted(account: Account) -> Account:
    for buckets, key in account:
        if wait := buckets.admit(key):
            raise Overloaded("RATE_LIMITED", "Too many operations. Wait and retry.", retry_after=timedelta(seconds=wait))
    return account


def network(address: str) -> str:
    """Returns the key of an anonymous caller: the IPv4 address (also when it is mapped to IPv6), or the IPv6 network."""
    if ":" not in address:
        return address
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    except ValueError:
        return address
