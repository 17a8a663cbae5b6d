"""How often somebody may ask: a bucket for each person or machine, each tenant, and each address of those who are not signed in.

A bucket is one number, the moment at which it will be full again (the generic cell rate algorithm of ITU-T I.371): it runs over when that
is more than `BURST_SECONDS` ahead. Buckets are this process's own: n replicas let n times as much pass.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from gateway.principal import Session
from services.kit.errors import Overloaded
from services.kit.settings import Settings

BURST_SECONDS = 2.0
KEPT_MAX = 10_000
"""Of one kind. Who has asked for nothing the longest is forgotten first; they had a full bucket anyway."""
COLD_WEIGHT = 5.0
"""What a document counts that must be parsed and validated first."""
IPV6_PREFIX = 64
"""Bits of an IPv6 address that tell callers apart: all others are the caller's to choose."""
TENANT_SCOPES = ("SCOPE_KIND_BRAND", "SCOPE_KIND_UNIT", "SCOPE_KIND_STORE", "SCOPE_KIND_DISTRICT")
"""What stands for a tenant in a session: the widest scope somebody has below the installation."""


class Buckets:
    """The buckets of one kind, each of `per_second`; none when that is 0."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.clock = per_second, clock
        self.full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, key: str, weight: float = 1.0) -> float:
        """Seconds until as much as `weight` may be taken; 0: now."""
        if not self.per_second:
            return 0.0
        now = self.clock()
        after = max(self.full_at.get(key, now), now) + weight / self.per_second
        return max(after - now - BURST_SECONDS, 0.0)

    def take(self, key: str, weight: float = 1.0) -> None:
        """Takes it, whether or not there is as much."""
        if not self.per_second:
            return
        now = self.clock()
        self.full_at[key] = max(self.full_at.get(key, now), now) + weight / self.per_second
        self.full_at.move_to_end(key)
        if len(self.full_at) > KEPT_MAX:
            self.full_at.popitem(last=False)


class Rates:
    """All buckets of a gateway process."""

    def __init__(self, settings: Settings) -> None:
        self.principals, self.tenants = Buckets(settings.rate_principal), Buckets(settings.rate_tenant)
        self.addresses = Buckets(settings.rate_address)

    def admit(self, session: Session, address: str, *, known: bool) -> None:
        """Counts an operation; `Overloaded` (RATE_LIMITED) when there have been too many. `known`: its document need not be read anew."""
        weight = 1.0 if known else COLD_WEIGHT
        if session.principal is None:
            self._take([(self.addresses, _network(address))], weight)
            return
        buckets = [(self.principals, session.principal.id)]
        if tenant := tenant_of(session):
            buckets.append((self.tenants, tenant))
        self._take(buckets, weight)

    def turned_away(self, address: str) -> None:
        """Counts a request whose token is not in order; `Overloaded` when that address has sent too many."""
        self._take([(self.addresses, _network(address))], 1.0)

    def _take(self, buckets: list[tuple[Buckets, str]], weight: float) -> None:
        wait = max(kind.wait(key, weight) for kind, key in buckets)
        if wait > 0:
            raise Overloaded("RATE_LIMITED", "too many operations; wait and try again", retry_after=timedelta(seconds=wait))
        for kind, key in buckets:
            kind.take(key, weight)


def tenant_of(session: Session) -> str:
    """The tenant somebody works for, as far as their grants tell it; empty for consumers and the installation's own people."""
    grants = session.principal.grants if session.principal is not None else ()
    return next((grant.id for kind in TENANT_SCOPES for grant in grants if grant.kind == kind), "")


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    except ValueError:
        return address
