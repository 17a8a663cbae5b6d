"""Rate limits: token buckets per principal, per tenant, and per address of anonymous clients.

A bucket is one number, the moment at which it is full again (generic cell rate algorithm, ITU-T I.371). A request is refused if that moment
is more than `BURST_SECONDS` (2 s) in the future. Buckets live in one process: n replicas admit n times the rate.
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
"""A full bucket holds the tokens of this time."""
BUCKETS_MAX = 10_000
"""A rate limiter keeps this many buckets. The least recently used one is dropped; it is full in most cases."""
COLD_WEIGHT_PER_SECOND = 1_000.0
"""Parsing, validating and compiling a new document counts as one operation for each millisecond."""
IPV6_PREFIX = 64
"""This many leading bits of an IPv6 address identify a client, which chooses the other bits itself."""


class RateLimiter:
    """The token buckets of one kind, each filled by `per_second`; without limit if that is 0."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.clock = per_second, clock
        self.full_at: LRUCache[str, float] = LRUCache(BUCKETS_MAX)

    def admit(self, key: str) -> float:
        """Takes one token and returns 0; if the bucket is empty, takes none and returns the seconds until the next one."""
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
        """Takes the tokens of that many operations, even if the bucket is empty."""
        if self.per_second:
            now = self.clock()
            self.full_at[key] = max(self.full_at.get(key, now), now) + operations / self.per_second


Account = tuple[tuple[RateLimiter, str], ...]
"""The buckets that an operation counts against: each limiter with the key of its bucket."""


class RateLimits:
    """The rate limiters of a gateway process. Raise `Overloaded` (RATE_LIMITED) for an empty bucket."""

    def __init__(self, settings: Settings) -> None:
        self.principals, self.tenants = RateLimiter(settings.rate_principal), RateLimiter(settings.rate_tenant)
        self.addresses = RateLimiter(settings.rate_address)

    def admit(self, session: Session, address: str) -> Account:
        """Counts an operation of a principal and its tenant; without a principal, of the address."""
        if session.principal is None:
            return self.admit_address(address)
        account: Account = ((self.principals, session.principal.id),)
        if session.tenant_id:
            account = (*account, (self.tenants, session.tenant_id))
        return _admit(account)

    def admit_address(self, address: str) -> Account:
        """Counts a request of an address."""
        return _admit(((self.addresses, network(address)),))


def charge(account: Account, operations: float) -> None:
    """Counts extra work of a running operation. It completes, and the next operation waits longer."""
    for limiter, key in account:
        limiter.charge(key, operations)


def _admit(account: Account) -> Account:
    for limiter, key in account:
        if wait := limiter.admit(key):
            message = "The rate limit is exceeded. Retry after the given time."
            raise Overloaded("RATE_LIMITED", message, retry_after=timedelta(seconds=wait))
    return account


def network(address: str) -> str:
    """Returns the key of an address: an IPv4 address itself (also if written as IPv6), the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    except ValueError:
        return address
