"""How often somebody may ask: a bucket for each person or machine, each tenant, and each address of those who are not signed in.

A bucket is one number, the moment at which it will be full again (the generic cell rate algorithm of ITU-T I.371): it runs over when that
is more than `BURST_SECONDS` ahead. Buckets are this process's own: n replicas let n times as much pass.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from gateway.auth.sessions import Session
from services.kit.errors import Overloaded
from services.kit.settings import Settings

BURST_SECONDS = 2.0
KEPT_MAX = 10_000
"""Of one kind. Who has asked for nothing the longest is forgotten first; they had a full bucket anyway."""
COLD_WEIGHT_PER_SECOND = 1_000.0
"""What it counts to parse, validate and compile what is not known: as much as an operation for each millisecond it took."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that tell callers apart: all others are the caller's to choose."""


class Buckets:
    """The buckets of one kind, each of `per_second`; none when that is 0."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.clock = per_second, clock
        self.full_at: OrderedDict[str, float] = OrderedDict()

    def admit(self, key: str) -> float:
        """Takes one operation: 0; or takes nothing: seconds until there is one."""
        if not self.per_second:
            return 0.0
        now = self.clock()
        full_at = self.full_at.get(key, now)
        step = 1.0 / self.per_second
        if full_at > now and (wait := full_at + step - now - BURST_SECONDS) > 0:
            return wait
        self._set(key, max(full_at, now) + step)
        return 0.0

    def charge(self, key: str, operations: float) -> None:
        """Takes as much as so many operations, whether or not it is there."""
        if self.per_second:
            now = self.clock()
            self._set(key, max(self.full_at.get(key, now), now) + operations / self.per_second)

    def _set(self, key: str, full_at: float) -> None:
        self.full_at[key] = full_at
        self.full_at.move_to_end(key)
        if len(self.full_at) > KEPT_MAX:
            self.full_at.popitem(last=False)


Account = tuple[tuple[Buckets, str], ...]
"""The buckets that somebody takes from, each with their key in it."""


class Rates:
    """All buckets of a gateway process. `Overloaded` (RATE_LIMITED) is raised for who has taken too much."""

    def __init__(self, settings: Settings) -> None:
        self.principals, self.tenants = Buckets(settings.rate_principal), Buckets(settings.rate_tenant)
        self.addresses = Buckets(settings.rate_address)

    def admit(self, session: Session, address: str) -> Account:
        """Counts an operation of whoever is signed in, else of their address."""
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
    """Counts more work of an operation that is under way: it ends, and the next one waits the longer."""
    for buckets, key in account:
        buckets.charge(key, operations)


def _admitted(account: Account) -> Account:
    for buckets, key in account:
        if wait := buckets.admit(key):
            raise Overloaded("RATE_LIMITED", "too many operations; wait and try again", retry_after=timedelta(seconds=wait))
    return account


def network(address: str) -> str:
    """What tells callers apart who are not signed in: their address (IPv4 may be written as IPv6), of IPv6 its network."""
    if ":" not in address:
        return address
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    except ValueError:
        return address
