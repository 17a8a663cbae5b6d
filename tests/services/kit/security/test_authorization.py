"""Tests of authorization: the access rules of rpcs, their check at the start, and the reach of grants."""

import secrets
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from quanyu.access.v1 import access_pb2
from quanyu.events.v1 import events_pb2
from services.kit.enums import ScopeKind
from services.kit.errors import Denied
from services.kit.mongo.client import Database
from services.kit.projections.scopes import ScopeProjection
from services.kit.rpc.server import descriptor_of
from services.kit.runtime.process import run_service
from services.kit.runtime.runtime import Runtime, ServiceDefinition
from services.kit.security import authorization
from services.kit.security.authorization import Authorizer, check_rules
from services.kit.security.caller import ANONYMOUS, SYSTEM, Caller, current_caller
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal, Verifier
from services.kit.settings import Settings
from services.local.keys import new_keys
from tests.services.kit.conftest import DRIVERS
from tests.services.kit.probe_service import make_request, make_rpc, make_service, make_servicer

GUIDE, MANAGER, SUPERVISOR = "ROLE_GUIDE", "ROLE_STORE_MANAGER", "ROLE_SUPERVISOR"
BRAND_OPERATOR, CONSUMER, OPERATOR = "ROLE_BRAND_OPERATOR", "ROLE_CONSUMER", "ROLE_OPERATOR"

STORES = {
    "str_1": ("brd_a", ["unt_a", "unt_north", "unt_str_1"]),
    "str_2": ("brd_a", ["unt_a", "unt_north", "unt_str_2"]),
    "str_3": ("brd_a", ["unt_a", "unt_south", "unt_str_3"]),
    "str_9": ("brd_b", ["unt_b", "unt_str_9"]),
}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=DRIVERS)
async def authorizer(mongo_uri: str, request: pytest.FixtureRequest) -> AsyncIterator[Authorizer]:
    """An authorizer over STORES. All tests share it, since they only read."""
    database = Database(Settings(mongo_uri=mongo_uri, mongo_driver=request.param), f"test{secrets.token_hex(4)}_authorizer")
    scopes = ScopeProjection(database)
    await scopes.prepare()
    for store_id, (brand_id, org_unit_ids) in STORES.items():
        await scopes.save(None, events_pb2.StoreChanged(store_id=store_id, brand_id=brand_id, org_unit_ids=org_unit_ids))
    yield Authorizer(Verifier("make_service", "{}", development=False), scopes)
    await database.client.drop_database(database.name)
    await database.close()


def make_grant(role: str, kind: str, id: str = "") -> Grant:
    return Grant(role, f"SCOPE_KIND_{kind}", id)


def make_principal(*grants: Grant) -> Principal:
    return Principal("stf_1", grants, on_behalf_of="con_1")


def reach_of(caller: Caller) -> Mapping[ScopeKind, set[str]]:
    return {kind: set(reached) for kind, reached in caller.reach.items()}


# Rules ------------------------------------------------------------------------------------------------------------


def make_rule(*roles: str, **more: object) -> access_pb2.Rule:
    return access_pb2.Rule(roles=[access_pb2.Role.Value(role) for role in roles], **more)  # type: ignore[arg-type]


STORE_STAFF, BRAND_MANAGERS = access_pb2.ROLE_SET_STORE_STAFF, access_pb2.ROLE_SET_BRAND_MANAGERS


async def test_usable_rules_pass() -> None:
    within = make_rule(GUIDE, within=["store_id", "brand_ids"])
    usable = {"Public": make_rule(public=True), "Role": make_rule(GUIDE), "Within": within, "All": make_rule(SERVICE, installation=True)}
    check_rules([make_service(usable | {"Set": make_rule(role_sets=[STORE_STAFF])})])


async def test_check_names_each_rpc_without_usable_rule() -> None:
    service = make_service(
        {
            "Fine": make_rule(GUIDE),
            "Bare": None,
            "Empty": make_rule(),
            "NoField": make_rule(GUIDE, within=["planet_id"]),
            "NoKind": make_rule(GUIDE, within=["colour_id"]),
            "HalfWithin": make_rule(GUIDE, within=["store_id", "moon_id"]),
            "OpenAndNot": make_rule(GUIDE, public=True),
            "AllAndPart": make_rule(GUIDE, within=["store_id"], installation=True),
            "PublicSet": make_rule(public=True, role_sets=[STORE_STAFF]),
            "UnknownRole": access_pb2.Rule(roles=[99]),
            "UnknownSet": make_rule(GUIDE, role_sets=[99]),
            "UnsetSet": make_rule(role_sets=[access_pb2.ROLE_SET_UNSPECIFIED]),
        }
    )
    with pytest.raises(ValueError, match="ProbeService") as refused:
        check_rules([make_service({"Fine": make_rule(GUIDE)}), service])
    named = str(refused.value)
    unusable = ("Bare", "Empty", "NoField", "NoKind", "HalfWithin", "OpenAndNot", "AllAndPart")
    for name in (*unusable, "PublicSet", "UnknownRole", "UnknownSet", "UnsetSet"):
        assert f"ProbeService.{name}" in named
    assert "ProbeService.Fine" not in named
    assert all(f"{field!r}" in named for field in ("planet_id", "colour_id", "moon_id"))


@pytest.mark.parametrize(
    ("rules", "implemented", "error"),
    [
        ({"Ask": None}, ["Ask"], "ProbeService.Ask declares no rule"),
        ({"Ask": make_rule(GUIDE, within=["colour_id"])}, ["Ask"], "within names 'colour_id'"),
        ({"Ask": make_rule(GUIDE), "Say": make_rule(GUIDE)}, ["Ask"], "Probe lacks rpcs of .*: Say"),
    ],
    ids=["no rule", "within an unknown kind", "not implemented"],
)
async def test_service_with_unusable_rule_does_not_start(
    settings: Settings, rules: Mapping[str, access_pb2.Rule | None], implemented: list[str], error: str
) -> None:
    def define(runtime: Runtime) -> ServiceDefinition:
        return ServiceDefinition(
            servicers=[(lambda make_servicer, server: None, make_servicer(make_service(rules), *implemented))], collections=[], events={}
        )

    keys = new_keys()
    own = {"signing_key": keys.signing_setting("member"), "secret_keys": keys.secret_key, "hash_keys": keys.hash_key}
    everything = Settings(**{name: getattr(settings, name) for name in settings.__struct_fields__} | own)
    with pytest.raises(ValueError, match=error):
        async with run_service("member", everything, define, listen="127.0.0.1:0"):
            raise AssertionError("the service has started")


async def test_servicer_has_the_service_of_its_base() -> None:
    service = make_service({"Ask": make_rule(GUIDE), "Say": make_rule(GUIDE)})
    assert descriptor_of(make_servicer(service, "Ask", "Say")) is service
    with pytest.raises(TypeError, match="object has no generated base"):
        descriptor_of(object())


async def test_common_reason_in_refuses_stops_the_start() -> None:
    with pytest.raises(ValueError, match="refuses names 'NOT_PERMITTED'"):
        check_rules([make_service({"Ask": make_rule(GUIDE)}, refuses=["NOT_PERMITTED"])])


async def test_roles_combine_rule_and_role_sets() -> None:
    assert authorization.roles_of(make_rpc(CONSUMER, role_sets=[STORE_STAFF, BRAND_MANAGERS])) == {
        CONSUMER, GUIDE, MANAGER, SUPERVISOR, BRAND_OPERATOR
    }  # fmt: skip
    assert authorization.roles_of(make_rpc(public=True)) == frozenset()


async def test_reason_is_declared_by_the_rpc_or_common() -> None:
    method = make_service({"Ask": make_rule(GUIDE)}, refuses=["TOO_LATE"]).methods_by_name["Ask"]
    assert all(authorization.is_declared(method, reason) for reason in ("TOO_LATE", "INVALID_FIELD", "NOT_PERMITTED"))
    assert not authorization.is_declared(method, "TOO_SOON") and not authorization.is_declared(method, "UNSPECIFIED")


# Authorization of requests ---------------------------------------------------------------------------------------------------


async def test_public_rpc_admits_any_caller(authorizer: Authorizer) -> None:
    method = make_rpc(public=True)
    anonymous = await authorizer.authorize(method, None, make_request(method))
    assert (anonymous.id, anonymous.is_unrestricted, anonymous.reach) == ("", False, {})
    guide = await authorizer.authorize(method, make_principal(make_grant(GUIDE, "STORE", "str_1")), make_request(method))
    assert (guide.id, guide.on_behalf_of, reach_of(guide)) == ("stf_1", "con_1", {ScopeKind.STORE: {"str_1"}})


async def test_anonymous_caller_is_unauthenticated(authorizer: Authorizer) -> None:
    method = make_rpc(CONSUMER)
    with pytest.raises(Denied) as refused:
        await authorizer.authorize(method, None, make_request(method))
    assert refused.value.reason == "UNAUTHENTICATED"


WITHIN = {"store_id": "str_1"}


@pytest.mark.parametrize(
    "grants",
    [
        [],
        [make_grant(CONSUMER, "CONSUMER", "con_1")],
        [make_grant(MANAGER, "STORE", "str_2")],
        [make_grant(MANAGER, "STORE", "str_9"), make_grant(CONSUMER, "STORE", "str_1")],
        [make_grant(MANAGER, "ORG_UNIT", "unt_south")],
        [make_grant(MANAGER, "BRAND", "brd_b")],
        [make_grant(MANAGER, "STAFF", "str_1")],
        [make_grant(MANAGER, "STORE")],
        [make_grant(MANAGER, "PLANET", "str_1")],
        [make_grant(OPERATOR, "INSTALLATION")],
    ],
    ids=["no grant", "wrong role", "another store", "right role elsewhere, wrong role here", "another unit", "another brand",
         "an id of another kind", "a grant without an id", "an unknown kind", "a role that is not named, everywhere"],
)  # fmt: skip
async def test_caller_without_a_matching_grant_is_denied(authorizer: Authorizer, grants: list[Grant]) -> None:
    method = make_rpc(MANAGER, within=["store_id"])
    with pytest.raises(Denied) as refused:
        await authorizer.authorize(method, make_principal(*grants), make_request(method, **WITHIN))
    assert refused.value.reason == "NOT_PERMITTED"


@pytest.mark.parametrize(
    "grant",
    [
        make_grant(MANAGER, "STORE", "str_1"),
        make_grant(MANAGER, "ORG_UNIT", "unt_north"),
        make_grant(MANAGER, "ORG_UNIT", "unt_str_1"),
        make_grant(MANAGER, "BRAND", "brd_a"),
        Grant(MANAGER, INSTALLATION),
    ],
    ids=["the store", "a unit above", "its own unit", "its brand", "everywhere"],
)
async def test_grant_that_reaches_the_store_is_admitted(authorizer: Authorizer, grant: Grant) -> None:
    method = make_rpc(MANAGER, within=["store_id"])
    assert (await authorizer.authorize(method, make_principal(grant), make_request(method, **WITHIN))).grants == (grant,)


async def test_role_of_a_set_is_admitted(authorizer: Authorizer) -> None:
    method = make_rpc(role_sets=[BRAND_MANAGERS], within=["store_id"])
    manager, guide = (make_principal(make_grant(role, "STORE", "str_1")) for role in (MANAGER, GUIDE))
    await authorizer.authorize(method, manager, make_request(method, **WITHIN))
    with pytest.raises(Denied):
        await authorizer.authorize(method, guide, make_request(method, **WITHIN))


async def test_one_field_in_scope_suffices_unless_empty(authorizer: Authorizer) -> None:
    method, guide = make_rpc(GUIDE, within=["consumer_id", "store_id"]), make_principal(make_grant(GUIDE, "STORE", "str_1"))
    await authorizer.authorize(method, guide, make_request(method, consumer_id="con_9", store_id="str_1"))
    for fields in ({}, {"consumer_id": "con_9"}, {"consumer_id": "str_1"}):
        with pytest.raises(Denied):
            await authorizer.authorize(method, guide, make_request(method, **fields))


async def test_list_must_be_in_scope_as_a_whole(authorizer: Authorizer) -> None:
    method, guide = make_rpc(GUIDE, within=["store_ids"]), make_principal(make_grant(GUIDE, "ORG_UNIT", "unt_north"))
    await authorizer.authorize(method, guide, make_request(method, store_ids=["str_1", "str_2"]))
    for store_ids in (["str_1", "str_9"], ["str_9"], []):
        with pytest.raises(Denied):
            await authorizer.authorize(method, guide, make_request(method, store_ids=store_ids))


async def test_installation_rule_needs_an_installation_grant(authorizer: Authorizer) -> None:
    method = make_rpc(SERVICE, OPERATOR, installation=True)
    for grants in ([make_grant(SERVICE, "BRAND", "brd_a")], [make_grant(SERVICE, "BRAND", "brd_a"), Grant(GUIDE, INSTALLATION)]):
        with pytest.raises(Denied):
            await authorizer.authorize(method, make_principal(*grants), make_request(method, brand_id="brd_a"))
    assert (await authorizer.authorize(method, make_principal(Grant(SERVICE, INSTALLATION)), make_request(method))).is_unrestricted


# Reach ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grant", "reach"),
    [
        (make_grant(GUIDE, "STORE", "str_1"), {ScopeKind.STORE: {"str_1"}}),
        (make_grant(GUIDE, "STAFF", "stf_1"), {ScopeKind.STAFF: {"stf_1"}}),
        (make_grant(GUIDE, "DISTRICT", "dst_1"), {ScopeKind.DISTRICT: {"dst_1"}}),
        (make_grant(GUIDE, "CONSUMER", "con_1"), {ScopeKind.CONSUMER: {"con_1"}}),
        (
            make_grant(GUIDE, "ORG_UNIT", "unt_north"),
            {ScopeKind.STORE: {"str_1", "str_2"}, ScopeKind.ORG_UNIT: {"unt_north", "unt_str_1", "unt_str_2"}},
        ),
        (make_grant(GUIDE, "ORG_UNIT", "unt_empty"), {ScopeKind.STORE: set(), ScopeKind.ORG_UNIT: {"unt_empty"}}),
        (
            make_grant(GUIDE, "BRAND", "brd_b"),
            {ScopeKind.BRAND: {"brd_b"}, ScopeKind.STORE: {"str_9"}, ScopeKind.ORG_UNIT: {"unt_b", "unt_str_9"}},
        ),
    ],
    ids=["store", "staff", "district", "consumer", "unit", "unit without stores", "brand"],
)
async def test_grant_has_its_reach(authorizer: Authorizer, grant: Grant, reach: Mapping[ScopeKind, set[str]]) -> None:
    method = make_rpc(GUIDE)
    caller = await authorizer.authorize(method, make_principal(grant), make_request(method))
    assert reach_of(caller) == reach
    assert all(caller.can_reach(kind, id) for kind, of_kind_ids in reach.items() for id in of_kind_ids)
    assert not caller.can_reach(ScopeKind.STORE, "str_3") and not caller.can_reach(ScopeKind.BRAND, "brd_a") and not caller.is_unrestricted


async def test_reach_of_several_grants_is_their_union(authorizer: Authorizer) -> None:
    method = make_rpc(GUIDE, CONSUMER)
    grants = [make_grant(GUIDE, "STORE", "str_1"), make_grant(GUIDE, "ORG_UNIT", "unt_south"), make_grant(CONSUMER, "CONSUMER", "con_1")]
    caller = await authorizer.authorize(method, make_principal(*grants), make_request(method))
    assert reach_of(caller) == {
        ScopeKind.STORE: {"str_1", "str_3"},
        ScopeKind.ORG_UNIT: {"unt_south", "unt_str_3"},
        ScopeKind.CONSUMER: {"con_1"},
    }
    assert caller.roles == {GUIDE, CONSUMER}


async def test_only_grants_that_satisfy_the_rule_count(authorizer: Authorizer) -> None:
    """A store manager who is also a consumer calls with the grants that satisfy the rule, not with all."""
    manager, person = make_grant(MANAGER, "STORE", "str_1"), make_grant(CONSUMER, "CONSUMER", "con_1")
    by_role = make_rpc(CONSUMER)
    assert reach_of(await authorizer.authorize(by_role, make_principal(manager, person), make_request(by_role))) == {
        ScopeKind.CONSUMER: {"con_1"}
    }
    by_field = make_rpc(MANAGER, CONSUMER, within=["consumer_id", "store_id"])
    both_fields = make_request(by_field, consumer_id="con_1", store_id="str_2")
    caller = await authorizer.authorize(by_field, make_principal(manager, person), both_fields)
    assert (caller.grants, reach_of(caller)) == ((person,), {ScopeKind.CONSUMER: {"con_1"}})


async def test_unmatched_installation_grant_adds_no_reach(authorizer: Authorizer) -> None:
    method = make_rpc(GUIDE)
    caller = await authorizer.authorize(
        method, make_principal(Grant(OPERATOR, INSTALLATION), make_grant(GUIDE, "STORE", "str_1")), make_request(method)
    )
    assert not caller.is_unrestricted
    assert reach_of(caller) == {ScopeKind.STORE: {"str_1"}}


async def test_caller_outside_of_a_call_reaches_nothing() -> None:
    assert current_caller() is ANONYMOUS
    assert not current_caller().can_reach(ScopeKind.BRAND, "brd_a")
    assert SYSTEM.can_reach(ScopeKind.BRAND, "brd_a")
