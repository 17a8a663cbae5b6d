"""Nobody sees or changes what is another's: every rpc there is, generated from the descriptors, against four real services.

The world has two tenants, ash and birch (tests/services/worlds). Birch's people, and those of ash's other store oak, call every rpc
with ash's ids in every field, beside their own and beside what both have a part in. Whatever comes back, or into the databases, has
nothing of ash's own in it. Ash's people then make the same calls, so that it is known that something could have been seen.
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
from tests.services.conftest import starting
from tests.services.worlds import requests
from tests.services.worlds.attack import Allowed, Attacker, Right, Trial
from tests.services.worlds.rpcs import is_read, rpcs, served_by
from tests.services.worlds.seeding import World, grown
from tests.services.worlds.sides import KINDS
from tests.services.worlds.watching import own_of

PUBLIC = {
    # Which brands, stores and districts there are, what stands in them and what they sell is on the shop front.
    "ChartService.GetBrand", "ChartService.BatchGetBrands", "ChartService.GetStore", "ChartService.BatchGetStores",
    "PlaceService.GetDistrict", "PlaceService.BatchGetDistricts", "PlaceService.ListDistricts",
    "PlaceService.BatchGetVenues", "PlaceService.ListVenues", "PlaceService.BatchListVenues",
    "CatalogService.GetProduct", "CatalogService.BatchGetProducts", "CatalogService.BatchGetVariants", "CatalogService.BatchListVariants",
    "CatalogService.GetOffer", "CatalogService.BatchGetOffers", "CatalogService.SearchOffers", "CatalogService.BatchListOffers",
    # What can be had near by: whether there is one or more, never how many.
    "DiscoveryService.SearchPromises",
    # What a campaign gives and which brands take part; budgets are the brands' own.
    "CampaignService.GetCampaign", "CampaignService.BatchGetCampaigns", "CampaignService.ListCampaigns",
    "CampaignService.BatchListCampaigns",
    "CampaignService.ListParticipants", "CampaignService.BatchListParticipants",
}  # fmt: skip
"""The rpcs that anybody may call. Add one only after asking what of a tenant or a person its answer could carry."""

SHOPPING = [
    Allowed(
        who=("birch's CONSUMER", "birch's everything"), why="anybody may hold and buy goods in any store", changed=frozenset({"stock"})
    ),
    Allowed(
        who=("birch's CONSUMER", "birch's everything"),
        why="for themselves, that is",
        new=frozenset({"holds", "orders"}),
        by=("consumer_id",),
    ),
    Allowed(
        why="staff hold and sell the goods of their own store to whoever stands before them",
        new=frozenset({"holds", "orders"}),
        by=("store_id",),
    ),
    Allowed(
        why="what they hold for somebody is counted for their own brand",
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
            why="a person speaks to any brand",
            new=frozenset({"consents", "consent_changes"}),
            changed=frozenset({"consents"}),
            by=("consumer_id",),
        ),
        Allowed(
            who=("birch's CONSUMER", "birch's everything"),
            why="which brands one has spoken to is one's own",
            new=frozenset({"consented_brands"}),
            changed=frozenset({"consented_brands"}),
            by=("_id",),
        ),
        Allowed(
            who=("oak's",),
            why="any store of the brand writes down what a person the brand knows says there",
            new=frozenset({"consents", "consent_changes", "consented_brands"}),
            changed=frozenset({"consents", "consented_brands"}),
        ),
    ],
    "RelationService.RecordInteraction": [
        Allowed(
            who=("oak's",),
            why="any store of the brand records what a person the brand knows does there",
            new=frozenset({"interactions", "transitions"}),
            changed=frozenset({"relations", "transitions", "consumers"}),
        )
    ],
    "CampaignService.JoinCampaign": [
        Allowed(why="a brand joins any district's campaign, which counts its brands", changed=frozenset({"campaigns"})),
    ],
    "PlaceService.EnterDistrict": [
        Allowed(why="anybody may visit any district", new=frozenset({"visits"}), by=("consumer_id",)),
    ],
}
"""What others' calls may do to ash's rows. Everything else that changes one is a hole."""

WITHOUT_CONTROL = {
    "EventInboxService.Deliver": "events are made by services only",
    "OrderService.TakePaymentNotice": "only whoever takes the payments signs a notice",
}
"""Rpcs that the generated request does not reach for those who may call them, and why."""
SILENT = {
    "ConsentService.CheckConsents": "answers the brand ids it was asked about",
    "EventOutboxService.GetBacklog": "counts",
    "EventOutboxService.ListParkedEvents": "nothing is parked in this world",
}
"""Reads that are not public and yet tell nothing of one's own in this world."""
STREAM_SECONDS = 1.0
"""How long each stream is heard: one that tells anything tells what happened before at once."""
BREAKING = ("Cancel", "Release", "Dismiss", "Revoke", "Unbind", "Unlink", "Leave", "Rollback", "Move", "Complete")
"""Verbs that end things: rightful callers come to them last."""
BY_STORE = ("ROLE_GUIDE", "ROLE_STORE_MANAGER", "ROLE_SUPERVISOR")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of refused calls say nothing that a failed assertion does not."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def test_what_is_public_was_looked_at() -> None:
    assert {name for name, method in rpcs().items() if rule_of(method).public} == PUBLIC


async def test_what_is_allowed_still_exists() -> None:
    assert set(ALLOWED) | set(WITHOUT_CONTROL) | set(SILENT) <= set(rpcs())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(mongo_uri: str, keys: Keys) -> AsyncIterator[World]:
    """One world for all: what is tried on it must not change it, and those who may come after those who may not."""
    settings = Settings(
        mongo_uri=mongo_uri, database_prefix=f"test{secrets.token_hex(4)}", stream_seconds_max=STREAM_SECONDS, streams_principal=1_000
    )
    async with starting(settings, keys) as start:
        yield await grown(await start(*SERVICES))


@pytest.mark.parametrize("process", SERVICES)
async def test_nobody_sees_or_changes_what_is_anothers(world: World, process: str) -> None:
    names = served_by(process)
    unknown = [line for name in names for line in requests.unknown_nouns(name, world.ash.ids)]
    assert not unknown, f"give the world ids for these (Side.ids, or where the seeding makes one): {unknown}"
    attackers = [
        Attacker(world.birch, list(KINDS.values()), await own_of(world.ash, world.birch, world)),
        Attacker(world.oak, BY_STORE, await own_of(world.ash, world.oak, world)),
    ]
    trial = Trial(world, process, world.ash, ALLOWED)
    await trial.begin()
    for name in names:
        await trial.gate(name)
    for attacker in attackers:
        for name in names:
            await trial.attack(name, attacker)
        await trial.others_heard_nothing(attacker)
    for name in names:
        if rpcs()[name].name.startswith("BatchGet"):
            await trial.mixed(name, world.birch)
    assert not trial.problems, "\n".join([f"{len(trial.problems)} of {trial.calls} calls", *trial.problems[:40]])


@pytest.mark.parametrize("process", SERVICES)
async def test_whose_it_is_sees_and_changes_it(world: World, process: str) -> None:
    """Or the test above could not fail."""
    trial, own, rights = Trial(world, process, world.ash, {}), await own_of(world.ash, world.birch, world), {}
    for name in sorted(served_by(process), key=lambda name: (not is_read(name), rpcs()[name].name.startswith(BREAKING))):
        rights[name] = await trial.rightful(name, own)
    assert not trial.problems, "\n".join(trial.problems)
    uncontrolled = {name for name, right in rights.items() if right is Right.REFUSED}
    assert uncontrolled == set(WITHOUT_CONTROL) & set(served_by(process))
    silent = {name for name, right in rights.items() if is_read(name) and right is not Right.TOLD} - PUBLIC - set(SILENT)
    assert not silent, f"these tell their rightful callers nothing of their own: let the seeding make something for them to see: {silent}"
