"""Authorization: the access rule and the refusals that an rpc declares, and the scope of its caller.

The rule is checked before the rpc runs. `kit.table` then adds the caller's scope to every query and write.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from msgspec import Struct

from quanyu.access.v1 import access_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import Denied
from services.kit.security.principals import INSTALLATION, Grant, Principal, Verifier

METADATA_KEY = "quanyu-principal"
KINDS = frozenset(kind.value for kind in ScopeKind)
Reach = Mapping[ScopeKind, frozenset[str]]

FIELD_KINDS = {
    "brand_id": ScopeKind.BRAND, "brand_ids": ScopeKind.BRAND, "seller_id": ScopeKind.BRAND,
    "org_unit_id": ScopeKind.ORG_UNIT, "org_unit_ids": ScopeKind.ORG_UNIT, "parent_id": ScopeKind.ORG_UNIT,
    "store_id": ScopeKind.STORE, "store_ids": ScopeKind.STORE,
    "district_id": ScopeKind.DISTRICT, "district_ids": ScopeKind.DISTRICT,
    "consumer_id": ScopeKind.CONSUMER, "consumer_ids": ScopeKind.CONSUMER,
    "staff_id": ScopeKind.STAFF,
}  # fmt: skip
"""The scope kind of each request field that names a thing by its id."""


class Caller(Struct, frozen=True):
    """Whoever an rpc runs for: the grants its rule let through and what those reach, and which issuer says so. `everywhere` needs no
    filter."""

    id: str
    grants: tuple[Grant, ...] = ()
    on_behalf_of: str = ""
    everywhere: bool = False
    reach: Reach = {}
    issuer: str = ""

    @property
    def roles(self) -> frozenset[str]:
        """The labels of the roles that were let through."""
        return frozenset(grant.role for grant in self.grants)

    def reaches(self, kind: ScopeKind, id: str) -> bool:
        """Whether that one thing lies within the caller's scope."""
        return self.everywhere or id in self.reach.get(kind, frozenset())


SYSTEM = Caller(id="system", everywhere=True)
"""The service itself: effects of events and background work."""
ANONYMOUS = Caller(id="")

current: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def caller() -> Caller:
    """Whoever the current rpc, effect or background task runs for. Outside of all of these: nobody, who reaches nothing."""
    return current.get()


@cache
def rule_of(method: MethodDescriptor) -> access_pb2.Rule:
    """The rule an rpc declares."""
    return method.GetOptions().Extensions[access_pb2.rule]


@cache
def roles_of(method: MethodDescriptor) -> frozenset[str]:
    """Returns the labels of the roles that may call an rpc: those of its rule and of the role sets of its rule."""
    rule = rule_of(method)
    numbers = set(rule.roles).union(*(roles_in(role_set) for role_set in rule.role_sets))
    return frozenset(access_pb2.Role.Name(access_pb2.Role.ValueType(number)) for number in numbers)


@cache
def roles_in(role_set: int) -> tuple[int, ...]:
    """Returns the numbers of the roles of a role set; empty if there is no such set."""
    value = access_pb2.RoleSet.DESCRIPTOR.values_by_number.get(role_set)
    return tuple(value.GetOptions().Extensions[access_pb2.roles]) if value is not None else ()


@cache
def reasons_of(method: MethodDescriptor) -> tuple[str, ...]:
    """Returns the reasons that an rpc declares, in the order of its option."""
    return tuple(method.GetOptions().Extensions[access_pb2.refuses].reasons)


COMMON_REASONS = frozenset(label.removeprefix("COMMON_REASON_") for label, _ in access_pb2.CommonReason.items()) - {"UNSPECIFIED"}
"""The reasons that every rpc may refuse with."""


def is_declared(method: MethodDescriptor, reason: str) -> bool:
    """True if an rpc declares this reason, or if every rpc may refuse with it."""
    return reason in COMMON_REASONS or reason in reasons_of(method)


def check_rules(services: Iterable[ServiceDescriptor]) -> None:
    """Raises ValueError naming every rpc without a usable rule: such a service does not start."""
    wrong = [f"{method.full_name}{fault}" for service in services for method in service.methods for fault in _faults(method)]
    if wrong:
        raise ValueError("; ".join(wrong))


def _faults(method: MethodDescriptor) -> Iterator[str]:
    """Yields what is wrong with the rule of an rpc."""
    rule, fields = rule_of(method), method.input_type.fields_by_name
    if not (rule.public or rule.roles or rule.role_sets):
        yield " declares no rule (quanyu.access.v1.rule)"
    if (rule.public and (rule.roles or rule.role_sets or rule.within or rule.installation)) or (rule.within and rule.installation):
        yield ": public, within and installation exclude each other, and public needs no roles"
    for role in rule.roles:
        if not role or role not in access_pb2.Role.values():
            yield f": roles names {role}, which is no role"
    for role_set in rule.role_sets:
        if not roles_in(role_set):
            yield f": role_sets names {role_set}, which is no role set"
    for name in rule.within:
        if name not in fields or name not in FIELD_KINDS:
            yield f": within names {name!r}, which is no field of a known kind of {method.input_type.full_name}"
    for reason in reasons_of(method):
        if reason in COMMON_REASONS:
            yield f": refuses names {reason!r}, which is common to all rpcs"


class Below(Protocol):
    """The stores and org units below a brand or org unit."""

    @property
    def stores(self) -> frozenset[str]: ...

    @property
    def units(self) -> frozenset[str]: ...


class ScopeLookup(Protocol):
    """Looks up what lies below a brand or org unit; `ScopeProjection` does it from events."""

    async def below(self, field: str, id: str) -> Below: ...


class Authorizer:
    """Checks the access rules of one service."""

    def __init__(self, verifier: Verifier, scopes: ScopeLookup) -> None:
        self.verifier, self.scopes = verifier, scopes

    def principal(self, metadata: Iterable[tuple[str, str | bytes]]) -> Principal | None:
        """Whoever the call's metadata states; None for an anonymous call."""
        for name, value in metadata:
            if name == METADATA_KEY:
                return self.verifier.verify(value if isinstance(value, str) else value.decode())
        return None

    async def admit(self, method: MethodDescriptor, principal: Principal | None, request: Message) -> Caller:
        """Returns the caller that this request runs for; `Denied` if none of their grants satisfies the rule."""
        rule = rule_of(method)
        if principal is None:
            if rule.public:
                return ANONYMOUS
            raise Denied("UNAUTHENTICATED", "sign in first")
        if rule.public:
            return await self._caller(principal, principal.grants)
        allowed = roles_of(method)
        grants = [grant for grant in principal.grants if grant.role in allowed]
        if rule.installation:
            grants = [grant for grant in grants if grant.kind == INSTALLATION]
        if rule.within:
            grants = [grant for grant in grants if await self._within(grant, rule.within, request)]
        if not grants:
            raise Denied("NOT_PERMITTED", "none of your roles allows this here")
        return await self._caller(principal, tuple(grants))

    async def _caller(self, principal: Principal, grants: tuple[Grant, ...]) -> Caller:
        everywhere = any(grant.kind == INSTALLATION for grant in grants)
        reach: dict[ScopeKind, frozenset[str]] = {}
        if not everywhere:
            for grant in grants:
                for kind, ids in (await self._reach(grant)).items():
                    reach[kind] = reach.get(kind, frozenset()) | ids
        return Caller(principal.id, grants, principal.on_behalf_of, everywhere, reach, principal.issuer)

    async def _reach(self, grant: Grant) -> Reach:
        """What one grant reaches: itself, and below a brand or unit also its stores and units; nothing when it names nothing known here."""
        if grant.kind not in KINDS or not grant.id:
            return {}
        kind = ScopeKind(grant.kind)
        own = frozenset({grant.id})
        if kind is ScopeKind.BRAND:
            below = await self.scopes.below("brand_id", grant.id)
            return {ScopeKind.BRAND: own, ScopeKind.STORE: below.stores, ScopeKind.ORG_UNIT: below.units}
        if kind is ScopeKind.ORG_UNIT:
            below = await self.scopes.below("org_unit_ids", grant.id)
            return {ScopeKind.STORE: below.stores, ScopeKind.ORG_UNIT: below.units | own}
        return {kind: own}

    async def _within(self, grant: Grant, names: Iterable[str], request: Message) -> bool:
        if grant.kind == INSTALLATION:
            return True
        reach = await self._reach(grant)
        for name in names:
            value = getattr(request, name)
            ids = {value} if isinstance(value, str) else set(value)
            if ids and ids <= reach.get(FIELD_KINDS[name], frozenset()):
                return True
        return False
