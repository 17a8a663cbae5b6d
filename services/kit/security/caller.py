"""The caller of an rpc, effect or background task, kept in a context variable."""

from collections.abc import Mapping
from contextvars import ContextVar

from msgspec import Struct

from services.kit.enums import ScopeKind
from services.kit.security.principals import Grant

Reach = Mapping[ScopeKind, frozenset[str]]
"""The ids that a caller may reach, by the kind of scope."""


class Caller(Struct, frozen=True):
    """The principal that an rpc runs for: the grants that satisfy the rpc's rule, what they reach, and the issuer of the principal.

    `is_unrestricted` is true for a grant of the whole installation; then no query is filtered.
    """

    id: str
    grants: tuple[Grant, ...] = ()
    on_behalf_of: str = ""
    is_unrestricted: bool = False
    reach: Reach = {}
    issuer: str = ""

    @property
    def roles(self) -> frozenset[str]:
        """The labels of the roles of the grants."""
        return frozenset(grant.role for grant in self.grants)

    def can_reach(self, kind: ScopeKind, id: str) -> bool:
        """True if this id lies within the caller's scope."""
        return self.is_unrestricted or id in self.reach.get(kind, frozenset())


SYSTEM = Caller(id="system", is_unrestricted=True)
"""The caller of event effects and background work is the service itself."""
ANONYMOUS = Caller(id="")
"""A call without a principal has a caller that reaches nothing."""

caller_context: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """Returns the caller of the current rpc, effect or background task; ANONYMOUS outside of all of these."""
    return caller_context.get()
