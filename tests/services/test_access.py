"""Access tests: no caller reads or changes the data of others, for all rpcs of four real services, generated from the descriptors.

The world has two tenants, ash and birch (tests/services/worlds). Birch's people, and those of ash's other store oak, call each rpc with
ash's ids in every field, also together with their own ids and with ids that both share. No response and no changed document may contain
ash's own data. Then ash's people make the same calls, which proves that there was something to read.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import structlog

from services.kit.runtime.runtime import SERVICES
from services.kit.security.authorization import rule_of
from services.kit.settings import Settings
from services.local.keys import Keys
from tests.services.conftest import run_services
from tests.services.worlds import requests
from tests.services.worlds.attack import AccessTrial, Allowed, Attacker, Result
from tests.services.worlds.rpcs import is_read, rpcs, served_by
from tests.services.worlds.seeding import World, seed_world
from tests.services.worlds.sides import ROLES_BY_NAME
from tests.services.worlds.watching import find_own_data

PUBLIC = {
    # Brands, stores, districts, venues and offers are public.
    "ChartService.GetBrand", "ChartService.BatchGetBrands", "ChartService.GetStore", "ChartService.BatchGetStores",
    "PlaceService.GetDistrict", "PlaceService.BatchGetDistricts", "PlaceService.ListDistricts",
    "PlaceService.BatchGetVenues", "PlaceService.ListVenues", "PlaceService.BatchListVenues",
    "CatalogService.GetProduct", "CatalogService.BatchGetProducts", "CatalogService.BatchGetVariants", "CatalogService.BatchListVariants",
    "CatalogService.GetOffer", "CatalogService.BatchGetOffers", "CatalogService.SearchOffers", "CatalogService.BatchListOffers",
    # Promises show whether goods are available, but not how many.
    "DiscoveryService.SearchPromises",
    # Campaigns and their participants are public; budgets are not.
    "CampaignService.GetCampaign", "CampaignService.BatchGetCampaigns", "CampaignService.ListCampaigns",
    "CampaignService.BatchListCampaigns",
    "CampaignService.ListParticipants", "CampaignService.BatchListParticipants",
}  # fmt: skip
"""The public rpcs. Before you add one, check that its responses have no data of a tenant or a person."""

SHOPPING = [
    Allowed(
        who=("birch's CONSUMER", "birch's everything"), why="a consumer may hold and buy goods in any store", changed=frozenset({"stock"})
    ),
    Allowed(
        who=("birch's CONSUMER", "birch's everything"),
        why="a consumer holds and buys for themselves",
        new=frozenset({"holds", "orders"}),
        by=("consumer_id",),
    ),
    Allowed(
        why="staff hold and sell the goods of their own store to any consumer",
        new=frozenset({"holds", "orders"}),
        by=("store_id",),
    ),
    Allowed(
        why="holds that staff make count for their own brand",
        new=frozenset({"holders"}),
        changed=frozenset({"holders"}),
        by=("brand_id",),
    ),
]
ALLOWED = {
    "StockService.HoldStock": SHOPPING,
    "DiscoveryService.HoldPromise": SHOPPING,
    "OrderService.PlaceOrder": SHOPPING,
    "ConsentService.SetConsent": [
        Allowed(
            who=("birch's CONSUMER", "birch's everything"),
            why="a consumer may give consent to any brand",
            new=frozenset({"consents", "consent_changes"}),
            changed=frozenset({"consents"}),
            by=("consumer_id",),
        ),
        Allowed(
            who=("birch's CONSUMER", "birch's everything"),
            why="the list of brands with a consent belongs to the consumer",
            new=frozenset({"consented_brands"}),
            changed=frozenset({"consented_brands"}),
            by=("_id",),
        ),
        Allowed(
            who=("oak's",),
            why="any store of the brand records the consent of a consumer that the brand knows",
            new=frozenset({"consents", "consent_changes", "consented_brands"}),
            changed=frozenset({"consents", "consented_brands"}),
        ),
    ],
    "RelationService.RecordInteraction": [
        Allowed(
            who=("oak's",),
            why="any store of the brand records interactions of a consumer that the brand knows",
            new=frozenset({"interactions", "transitions"}),
            changed=frozenset({"relations", "transitions", "consumers"}),
        )
    ],
    "CampaignService.JoinCampaign": [
        Allowed(why="a brand may join the campaign of any district, which counts its brands", changed=frozenset({"campaigns"})),
    ],
    "PlaceService.EnterDistrict": [
        Allowed(why="a consumer may visit any district", new=frozenset({"visits"}), by=("consumer_id",)),
    ],
}
"""The changes that others may make to ash's documents. Any other change is a vulnerability."""

UNREACHABLE = {
    "EventInboxService.Deliver": "only services publish events",
    "OrderService.TakePaymentNotice": "only the payment provider signs a notice",
}
"""The generated requests are refused by these rpcs even for rightful callers, for these reasons."""
WITHOUT_OWN_DATA = {
    "ConsentService.CheckConsents": "returns only brand ids of the request",
    "EventOutboxService.GetBacklog": "returns only counts",
    "EventOutboxService.ListParkedEvents": "this world has no parked events",
}
"""These reads return nothing of the caller's own data in this world, for these reasons."""
STREAM_SECONDS = 1.0
"""Each stream is read for this long; it sends the changes before the call at once."""
ENDING_VERBS = ("Cancel", "Release", "Dismiss", "Revoke", "Unbind", "Unlink", "Leave", "Rollback", "Move", "Complete")
"""Rpcs with these verbs end or remove something, so that rightful callers call them last."""
STORE_ROLES = ("ROLE_GUIDE", "ROLE_STORE_MANAGER", "ROLE_SUPERVISOR")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def silence_logs() -> Iterator[None]:
    """Silences the logs of thousands of refused calls."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def test_public_rpcs_are_listed() -> None:
    assert {name for name, method in rpcs().items() if rule_of(method).public} == PUBLIC


async def test_listed_exceptions_exist() -> None:
    assert set(ALLOWED) | set(UNREACHABLE) | set(WITHOUT_OWN_DATA) <= set(rpcs())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(mongo_uri: str, keys: Keys) -> AsyncIterator[World]:
    """One world for all tests: attacks must not change it, and rightful callers come after the attackers."""
    settings = Settings(
        mongo_uri=mongo_uri, database_prefix=f"test{secrets.token_hex(4)}", stream_seconds_max=STREAM_SECONDS, streams_principal=1_000
    )
    async with run_services(settings, keys) as start:
        yield await seed_world(await start(*SERVICES))


@pytest.mark.parametrize("process", SERVICES)
async def test_others_neither_read_nor_change_own_data(world: World, process: str) -> None:
    names = served_by(process)
    unknown = [line for name in names for line in requests.find_unknown_nouns(name, world.ash.ids)]
    assert not unknown, f"add ids for these to `Side.ids` or to the seeding: {unknown}"
    attackers = [
        Attacker(world.birch, list(ROLES_BY_NAME.values()), await find_own_data(world.ash, world.birch, world)),
        Attacker(world.oak, STORE_ROLES, await find_own_data(world.ash, world.oak, world)),
    ]
    trial = AccessTrial(world, process, world.ash, ALLOWED)
    await trial.take_snapshot()
    for name in names:
        await trial.check_rule(name)
    for attacker in attackers:
        for name in names:
            await trial.attack(name, attacker)
        await trial.check_other_services(attacker)
    for name in names:
        if rpcs()[name].name.startswith("BatchGet"):
            await trial.check_mixed_list(name, world.birch)
    assert not trial.problems, "\n".join([f"{len(trial.problems)} of {trial.calls} calls", *trial.problems[:40]])


@pytest.mark.parametrize("process", SERVICES)
async def test_owner_reads_and_changes_own_data(world: World, process: str) -> None:
    """Proves that the test above can fail."""
    trial, own, results = AccessTrial(world, process, world.ash, {}), await find_own_data(world.ash, world.birch, world), {}
    for name in sorted(served_by(process), key=lambda name: (not is_read(name), rpcs()[name].name.startswith(ENDING_VERBS))):
        results[name] = await trial.best_result(name, own)
    assert not trial.problems, "\n".join(trial.problems)
    unreachable = {name for name, result in results.items() if result is Result.REFUSED}
    assert unreachable == set(UNREACHABLE) & set(served_by(process))
    silent = {name for name, result in results.items() if is_read(name) and result is not Result.OWN_DATA} - PUBLIC - set(WITHOUT_OWN_DATA)
    assert not silent, f"these return nothing of the callers' own data. Add data for them to the seeding: {silent}"
