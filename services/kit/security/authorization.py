"""Authorization: checks the access rule that an rpc declares and finds the scope of its caller.

The rule is checked before the rpc runs. `ScopedCollection` then adds the caller's scope to every query and write.
A service with an rpc without a usable rule does not start (`check_rules`).
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from quanyu.access.v1 import access_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import Denied
from services.kit.security.caller import ANONYMOUS, Caller, Reach
from services.kit.security.principals import INSTALLATION, Grant, Principal, Verifier

METADATA_KEY = "quanyu-principal"
"""The metadata key of the signed principal."""
KINDS = frozenset(kind.value for kind in ScopeKind)

FIELD_KINDS = {
    "brand_id": ScopeKind.BRAND, "brand_ids": ScopeKind.BRAND, "seller_id": ScopeKind.BRAND,
    "org_unit_id": ScopeKind.ORG_UNIT, "org_unit_ids": ScopeKind.ORG_UNIT, "parent_id": ScopeKind.ORG_UNIT,
    "store_id": ScopeKind.STORE, "store_ids": ScopeKind.STORE,
    "district_id": ScopeKind.DISTRICT, "district_ids": ScopeKind.DISTRICT,
    "consumer_id": ScopeKind.CONSUMER, "consumer_ids": ScopeKind.CONSUMER,
    "staff_id": ScopeKind.STAFF,
}  # fmt: skip
"""The scope kind of each request field that holds ids of things with a scope."""


@cache
def rule_of(method: MethodDescriptor) -> access_pb2.Rule:
    """Returns the rule that an rpc declares."""
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
    wrong = [f"{method.full_name}{error}" for service in services for method in service.methods for error in _rule_errors(method)]
    if wrong:
        raise ValueError("; ".join(wrong))


def _rule_errors(method: MethodDescriptor) -> Iterator[str]:
    """Yields what is wrong with the rule of an rpc."""
    rule, fields = rule_of(method), method.input_type.fields_by_name
    if not (rule.public or rule.roles or rule.role_sets):
        yield " declares no rule (quanyu.access.v1.rule)"
    if (rule.public and (rule.roles or rule.role_sets or rule.within or rule.installation)) or (rule.within and rule.installation):
        yield ": public, within and installation exclude each other, and public needs no roles"
    for role in rule.roles:
        if not role or role not in access_pb2.Role.values():
            yield f": roles names {role}, which is not a role"
    for role_set in rule.role_sets:
        if not roles_in(role_set):
            yield f": role_sets names {role_set}, which is not a role set"
    for name in rule.within:
        if name not in fields or name not in FIELD_KINDS:
            yield f": within names {name!r}, which is not a field of {method.input_type.full_name} with a scope kind"
    for reason in reasons_of(method):
        if reason in COMMON_REASONS:
            yield f": refuses names {reason!r}, which is common to all rpcs"


class Subtree(Protocol):
    """The stores and org units below a brand or org unit."""

    @property
    def stores(self) -> frozenset[str]: ...

    @property
    def units(self) -> frozenset[str]: ...


class ScopeLookup(Protocol):
    """Finds the subtree of a brand or org unit. `ScopeProjection` implements it with a projection of events."""

    async def find_subtree(self, field: str, id: str) -> Subtree: ...


class Authorizer:
    """Checks the access rules of one service."""

    def __init__(self, verifier: Verifier, scopes: ScopeLookup) -> None:
        self.verifier, self.scopes = verifier, scopes

    def read_principal(self, metadata: Iterable[tuple[str, str | bytes]]) -> Principal | None:
        """Verifies the principal in a call's metadata; None for an anonymous call. `Denied` if its signature is not valid."""
        for name, value in metadata:
            if name == METADATA_KEY:
                return self.verifier.verify(value if isinstance(value, str) else value.decode())
        return None

    async def authorize(self, method: MethodDescriptor, principal: Principal | None, request: Message) -> Caller:
        """Returns the caller that this request runs for; `Denied` if no grant of the principal satisfies the rule."""
        rule = rule_of(method)
        if principal is None:
            if rule.public:
                return ANONYMOUS
            raise Denied("UNAUTHENTICATED", "This needs a signed-in caller. Sign in first.")
        if rule.public:
            return await self._build_caller(principal, principal.grants)
        allowed = roles_of(method)
        grants = [grant for grant in principal.grants if grant.role in allowed]
        if rule.installation:
            grants = [grant for grant in grants if grant.kind == INSTALLATION]
        if rule.within:
            grants = [grant for grant in grants if await self._covers(grant, rule.within, request)]
        if not grants:
            raise Denied("NOT_PERMITTED", "Your roles do not permit this here. Ask an operator for a grant.")
        return await self._build_caller(principal, tuple(grants))

    async def _build_caller(self, principal: Principal, grants: tuple[Grant, ...]) -> Caller:
        is_unrestricted = any(grant.kind == INSTALLATION for grant in grants)
        reach: dict[ScopeKind, frozenset[str]] = {}
        if not is_unrestricted:
            for grant in grants:
                for kind, ids in (await self._reach_of(grant)).items():
                    reach[kind] = reach.get(kind, frozenset()) | ids
        return Caller(principal.id, grants, principal.on_behalf_of, is_unrestricted, reach, principal.issuer)

    async def _reach_of(self, grant: Grant) -> Reach:
        """Returns the ids that a grant reaches: its own, and the stores and org units below a brand or org unit.

        A grant of an unknown kind or without an id reaches nothing.
        """
        if grant.kind not in KINDS or not grant.id:
            return {}
        kind = ScopeKind(grant.kind)
        own = frozenset({grant.id})
        if kind is ScopeKind.BRAND:
            below = await self.scopes.find_subtree("brand_id", grant.id)
            return {ScopeKind.BRAND: own, ScopeKind.STORE: below.stores, ScopeKind.ORG_UNIT: below.units}
        if kind is ScopeKind.ORG_UNIT:
            below = await self.scopes.find_subtree("org_unit_ids", grant.id)
            return {ScopeKind.STORE: below.stores, ScopeKind.ORG_UNIT: below.units | own}
        return {kind: own}

    async def _covers(self, grant: Grant, field_names: Iterable[str], request: Message) -> bool:
        """True if the grant reaches all ids of at least one of these request fields."""
        if grant.kind == INSTALLATION:
            return True
        reach = await self._reach_of(grant)
        for name in field_names:
            value = getattr(request, name)
            ids = {value} if isinstance(value, str) else set(value)
            if ids and ids <= reach.get(FIELD_KINDS[name], frozenset()):
                return True
        return False
