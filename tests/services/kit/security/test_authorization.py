"""The first gate: each rpc declares who may call it, a service with one that does not never starts, and grants reach what they name."""

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
from tests.services.kit.probe import probe, request, rpc, servicer

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
async def gate(mongo_uri: str, request: pytest.FixtureRequest) -> AsyncIterator[Authorizer]:
    """A gate over those stores; nothing here writes, so that all tests share it."""
    database = Database(Settings(mongo_uri=mongo_uri, mongo_driver=request.param), f"test{secrets.token_hex(4)}_gate")
    scopes = ScopeProjection(database)
    await scopes.prepare()
    for store_id, (brand_id, org_unit_ids) in STORES.items():
        await scopes.save(None, events_pb2.StoreChanged(store_id=store_id, brand_id=brand_id, org_unit_ids=org_unit_ids))
    yield Authorizer(Verifier("probe", "{}", development=False), scopes)
    await database.client.drop_database(database.name)
    await database.close()


def of_kind(role: str, kind: str, id: str = "") -> Grant:
    return Grant(role, f"SCOPE_KIND_{kind}", id)


def somebody(*grants: Grant) -> Principal:
    return Principal("stf_1", grants, on_behalf_of="con_1")


def ids(caller: Caller) -> Mapping[ScopeKind, set[str]]:
    return {kind: set(reached) for kind, reached in caller.reach.items()}


# The start ------------------------------------------------------------------------------------------------------------


def rule(*roles: str, **more: object) -> access_pb2.Rule:
    return access_pb2.Rule(roles=[access_pb2.Role.Value(role) for role in roles], **more)  # type: ignore[arg-type]


STORE_STAFF, BRAND_MANAGERS = access_pb2.ROLE_SET_STORE_STAFF, access_pb2.ROLE_SET_BRAND_MANAGERS


async def test_usable_rules_pass() -> None:
    within = rule(GUIDE, within=["store_id", "brand_ids"])
    usable = {"Public": rule(public=True), "Role": rule(GUIDE), "Within": within, "All": rule(SERVICE, installation=True)}
    check_rules([probe(usable | {"Set": rule(role_sets=[STORE_STAFF])})])


async def test_every_rpc_without_a_usable_rule_is_named() -> None:
    service = probe(
        {
            "Fine": rule(GUIDE),
            "Bare": None,
            "Empty": rule(),
            "NoField": rule(GUIDE, within=["planet_id"]),
            "NoKind": rule(GUIDE, within=["colour_id"]),
            "HalfWithin": rule(GUIDE, within=["store_id", "moon_id"]),
            "OpenAndNot": rule(GUIDE, public=True),
            "AllAndPart": rule(GUIDE, within=["store_id"], installation=True),
            "PublicSet": rule(public=True, role_sets=[STORE_STAFF]),
            "UnknownRole": access_pb2.Rule(roles=[99]),
            "UnknownSet": rule(GUIDE, role_sets=[99]),
            "UnsetSet": rule(role_sets=[access_pb2.ROLE_SET_UNSPECIFIED]),
        }
    )
    with pytest.raises(ValueError, match="ProbeService") as refused:
        check_rules([probe({"Fine": rule(GUIDE)}), service])
    named = str(refused.value)
    unusable = ("Bare", "Empty", "NoField", "NoKind", "HalfWithin", "OpenAndNot", "AllAndPart")
    for name in (*unusable, "PublicSet", "UnknownRole", "UnknownSet", "UnsetSet"):
        assert f"ProbeService.{name}" in named
    assert "ProbeService.Fine" not in named
    assert all(f"{field!r}" in named for field in ("planet_id", "colour_id", "moon_id"))


@pytest.mark.parametrize(
    ("rules", "built", "fault"),
    [
        ({"Ask": None}, ["Ask"], "ProbeService.Ask declares no rule"),
        ({"Ask": rule(GUIDE, within=["colour_id"])}, ["Ask"], "within names 'colour_id'"),
        ({"Ask": rule(GUIDE), "Say": rule(GUIDE)}, ["Ask"], "rpcs that Probe does not have: Say"),
    ],
    ids=["no rule", "within an unknown kind", "not built"],
)
async def test_a_service_with_such_an_rpc_does_not_start(
    settings: Settings, rules: Mapping[str, access_pb2.Rule | None], built: list[str], fault: str
) -> None:
    def wire(runtime: Runtime) -> ServiceDefinition:
        return ServiceDefinition(servicers=[(lambda servicer, server: None, servicer(probe(rules), *built))], collections=[], events={})

    keys = new_keys()
    own = {"signing_key": keys.signing_setting("member"), "secret_keys": keys.secret_key, "hash_keys": keys.hash_key}
    everything = Settings(**{name: getattr(settings, name) for name in settings.__struct_fields__} | own)
    with pytest.raises(ValueError, match=fault):
        async with run_service("member", everything, wire, listen="127.0.0.1:0"):
            raise AssertionError("it started")


async def test_a_servicer_is_known_by_its_generated_base() -> None:
    service = probe({"Ask": rule(GUIDE), "Say": rule(GUIDE)})
    assert descriptor_of(servicer(service, "Ask", "Say")) is service
    with pytest.raises(TypeError, match="object has no generated base"):
        descriptor_of(object())


async def test_common_reason_in_refuses_stops_the_start() -> None:
    with pytest.raises(ValueError, match="refuses names 'NOT_PERMITTED'"):
        check_rules([probe({"Ask": rule(GUIDE)}, refuses=["NOT_PERMITTED"])])


async def test_roles_are_those_of_the_rule_and_its_sets() -> None:
    assert authorization.roles_of(rpc(CONSUMER, role_sets=[STORE_STAFF, BRAND_MANAGERS])) == {
        CONSUMER, GUIDE, MANAGER, SUPERVISOR, BRAND_OPERATOR
    }  # fmt: skip
    assert authorization.roles_of(rpc(public=True)) == frozenset()


async def test_reason_is_declared_by_the_rpc_or_common() -> None:
    method = probe({"Ask": rule(GUIDE)}, refuses=["TOO_LATE"]).methods_by_name["Ask"]
    assert all(authorization.is_declared(method, reason) for reason in ("TOO_LATE", "INVALID_FIELD", "NOT_PERMITTED"))
    assert not authorization.is_declared(method, "TOO_SOON") and not authorization.is_declared(method, "UNSPECIFIED")


# Who is let through ---------------------------------------------------------------------------------------------------


async def test_anybody_is_let_into_what_is_public(gate: Authorizer) -> None:
    method = rpc(public=True)
    nobody = await gate.admit(method, None, request(method))
    assert (nobody.id, nobody.is_unrestricted, nobody.reach) == ("", False, {})
    guide = await gate.admit(method, somebody(of_kind(GUIDE, "STORE", "str_1")), request(method))
    assert (guide.id, guide.on_behalf_of, ids(guide)) == ("stf_1", "con_1", {ScopeKind.STORE: {"str_1"}})


async def test_the_anonymous_are_asked_to_sign_in(gate: Authorizer) -> None:
    method = rpc(CONSUMER)
    with pytest.raises(Denied) as refused:
        await gate.admit(method, None, request(method))
    assert refused.value.reason == "UNAUTHENTICATED"


WITHIN = {"store_id": "str_1"}


@pytest.mark.parametrize(
    "grants",
    [
        [],
        [of_kind(CONSUMER, "CONSUMER", "con_1")],
        [of_kind(MANAGER, "STORE", "str_2")],
        [of_kind(MANAGER, "STORE", "str_9"), of_kind(CONSUMER, "STORE", "str_1")],
        [of_kind(MANAGER, "ORG_UNIT", "unt_south")],
        [of_kind(MANAGER, "BRAND", "brd_b")],
        [of_kind(MANAGER, "STAFF", "str_1")],
        [of_kind(MANAGER, "STORE")],
        [of_kind(MANAGER, "PLANET", "str_1")],
        [of_kind(OPERATOR, "INSTALLATION")],
    ],
    ids=["no grant", "wrong role", "another store", "right role elsewhere, wrong role here", "another unit", "another brand",
         "an id of another kind", "a grant without an id", "a kind nobody knows", "a role that is not named, everywhere"],
)  # fmt: skip
async def test_who_is_not_within_is_not_let_through(gate: Authorizer, grants: list[Grant]) -> None:
    method = rpc(MANAGER, within=["store_id"])
    with pytest.raises(Denied) as refused:
        await gate.admit(method, somebody(*grants), request(method, **WITHIN))
    assert refused.value.reason == "NOT_PERMITTED"


@pytest.mark.parametrize(
    "grant",
    [
        of_kind(MANAGER, "STORE", "str_1"),
        of_kind(MANAGER, "ORG_UNIT", "unt_north"),
        of_kind(MANAGER, "ORG_UNIT", "unt_str_1"),
        of_kind(MANAGER, "BRAND", "brd_a"),
        Grant(MANAGER, INSTALLATION),
    ],
    ids=["the store", "a unit above", "its own unit", "its brand", "everywhere"],
)
async def test_whoever_reaches_the_store_is_let_through(gate: Authorizer, grant: Grant) -> None:
    method = rpc(MANAGER, within=["store_id"])
    assert (await gate.admit(method, somebody(grant), request(method, **WITHIN))).grants == (grant,)


async def test_role_of_a_set_is_let_through(gate: Authorizer) -> None:
    method = rpc(role_sets=[BRAND_MANAGERS], within=["store_id"])
    manager, guide = (somebody(of_kind(role, "STORE", "str_1")) for role in (MANAGER, GUIDE))
    await gate.admit(method, manager, request(method, **WITHIN))
    with pytest.raises(Denied):
        await gate.admit(method, guide, request(method, **WITHIN))


async def test_one_field_within_suffices_and_an_empty_one_never_does(gate: Authorizer) -> None:
    method, guide = rpc(GUIDE, within=["consumer_id", "store_id"]), somebody(of_kind(GUIDE, "STORE", "str_1"))
    await gate.admit(method, guide, request(method, consumer_id="con_9", store_id="str_1"))
    for fields in ({}, {"consumer_id": "con_9"}, {"consumer_id": "str_1"}):
        with pytest.raises(Denied):
            await gate.admit(method, guide, request(method, **fields))


async def test_a_list_is_within_only_as_a_whole(gate: Authorizer) -> None:
    method, guide = rpc(GUIDE, within=["store_ids"]), somebody(of_kind(GUIDE, "ORG_UNIT", "unt_north"))
    await gate.admit(method, guide, request(method, store_ids=["str_1", "str_2"]))
    for store_ids in (["str_1", "str_9"], ["str_9"], []):
        with pytest.raises(Denied):
            await gate.admit(method, guide, request(method, store_ids=store_ids))


async def test_what_is_no_tenants_needs_a_grant_for_the_whole_installation(gate: Authorizer) -> None:
    method = rpc(SERVICE, OPERATOR, installation=True)
    for grants in ([of_kind(SERVICE, "BRAND", "brd_a")], [of_kind(SERVICE, "BRAND", "brd_a"), Grant(GUIDE, INSTALLATION)]):
        with pytest.raises(Denied):
            await gate.admit(method, somebody(*grants), request(method, brand_id="brd_a"))
    assert (await gate.admit(method, somebody(Grant(SERVICE, INSTALLATION)), request(method))).is_unrestricted


# What they reach ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grant", "reach"),
    [
        (of_kind(GUIDE, "STORE", "str_1"), {ScopeKind.STORE: {"str_1"}}),
        (of_kind(GUIDE, "STAFF", "stf_1"), {ScopeKind.STAFF: {"stf_1"}}),
        (of_kind(GUIDE, "DISTRICT", "dst_1"), {ScopeKind.DISTRICT: {"dst_1"}}),
        (of_kind(GUIDE, "CONSUMER", "con_1"), {ScopeKind.CONSUMER: {"con_1"}}),
        (
            of_kind(GUIDE, "ORG_UNIT", "unt_north"),
            {ScopeKind.STORE: {"str_1", "str_2"}, ScopeKind.ORG_UNIT: {"unt_north", "unt_str_1", "unt_str_2"}},
        ),
        (of_kind(GUIDE, "ORG_UNIT", "unt_empty"), {ScopeKind.STORE: set(), ScopeKind.ORG_UNIT: {"unt_empty"}}),
        (
            of_kind(GUIDE, "BRAND", "brd_b"),
            {ScopeKind.BRAND: {"brd_b"}, ScopeKind.STORE: {"str_9"}, ScopeKind.ORG_UNIT: {"unt_b", "unt_str_9"}},
        ),
    ],
    ids=["store", "staff", "district", "consumer", "unit", "unit without stores", "brand"],
)
async def test_what_a_grant_reaches(gate: Authorizer, grant: Grant, reach: Mapping[ScopeKind, set[str]]) -> None:
    method = rpc(GUIDE)
    caller = await gate.admit(method, somebody(grant), request(method))
    assert ids(caller) == reach
    assert all(caller.can_reach(kind, id) for kind, of_kind_ids in reach.items() for id in of_kind_ids)
    assert not caller.can_reach(ScopeKind.STORE, "str_3") and not caller.can_reach(ScopeKind.BRAND, "brd_a") and not caller.is_unrestricted


async def test_several_grants_reach_together_what_each_reaches(gate: Authorizer) -> None:
    method = rpc(GUIDE, CONSUMER)
    grants = [of_kind(GUIDE, "STORE", "str_1"), of_kind(GUIDE, "ORG_UNIT", "unt_south"), of_kind(CONSUMER, "CONSUMER", "con_1")]
    caller = await gate.admit(method, somebody(*grants), request(method))
    assert ids(caller) == {
        ScopeKind.STORE: {"str_1", "str_3"},
        ScopeKind.ORG_UNIT: {"unt_south", "unt_str_3"},
        ScopeKind.CONSUMER: {"con_1"},
    }
    assert caller.roles == {GUIDE, CONSUMER}


async def test_only_the_grants_that_let_the_request_through_count(gate: Authorizer) -> None:
    """Who runs one store and shops in another asks as whoever the rule let through, not as both."""
    manager, person = of_kind(MANAGER, "STORE", "str_1"), of_kind(CONSUMER, "CONSUMER", "con_1")
    by_role = rpc(CONSUMER)
    assert ids(await gate.admit(by_role, somebody(manager, person), request(by_role))) == {ScopeKind.CONSUMER: {"con_1"}}
    by_field = rpc(MANAGER, CONSUMER, within=["consumer_id", "store_id"])
    asked = request(by_field, consumer_id="con_1", store_id="str_2")
    caller = await gate.admit(by_field, somebody(manager, person), asked)
    assert (caller.grants, ids(caller)) == ((person,), {ScopeKind.CONSUMER: {"con_1"}})


async def test_an_installation_grant_that_was_not_let_through_lends_nothing(gate: Authorizer) -> None:
    method = rpc(GUIDE)
    caller = await gate.admit(method, somebody(Grant(OPERATOR, INSTALLATION), of_kind(GUIDE, "STORE", "str_1")), request(method))
    assert not caller.is_unrestricted
    assert ids(caller) == {ScopeKind.STORE: {"str_1"}}


async def test_outside_of_a_call_nobody_reaches_anything() -> None:
    assert current_caller() is ANONYMOUS
    assert not current_caller().can_reach(ScopeKind.BRAND, "brd_a")
    assert SYSTEM.can_reach(ScopeKind.BRAND, "brd_a")
