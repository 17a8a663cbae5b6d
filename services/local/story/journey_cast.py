"""Who and what the walk needs in the Complete Journey: a real household, in the district of the busiest stores."""

import random
from typing import Any

from quanyu.commerce.v1 import catalog_pb2, catalog_pb2_grpc, stock_pb2, stock_pb2_grpc
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import places_pb2, places_pb2_grpc
from services.local import campaign
from services.local.imports import journey, journey_stage
from services.local.story.cast import Cast, Channels
from services.local.story.stage import Person, Stage, Surprise

PAGE = PageRequest(first=100)
PAGES_MAX = 5
PREFIX = "con_cj_"


async def cast(stage: Stage, channels: Channels) -> Cast:
    """A household of a guide's client book that holds no coupons, and what it may look for."""
    if not any(campaign.runs(each) for each in await campaign.opened(channels, journey_stage.PLAN)):
        raise Surprise(
            "the Complete Journey is not imported, or its campaign has ended; `quanyu import --complete-journey` puts either right"
        )
    store_id, guide, clients, kept = await _client_book(stage, channels)
    catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channels["commerce"])
    request = catalog_pb2.BatchGetVariantsRequest(ids=[row.variant_id for row in kept])
    dear = [each for each in (await catalog.BatchGetVariants(request)).variants if each.price.minor >= journey_stage.MINIMUM_MINOR]
    middle = {"longitude": journey.MIDDLE.longitude, "latitude": journey.MIDDLE.latitude}
    return Cast(
        consumer=_household(clients[0]),
        friend=_household(clients[1]),
        guide=guide,
        manager=guide,
        friend_is_client=True,
        operator=Person("stf_cj_operator", "retailer's operator"),
        brand_id=journey.RETAILER,
        wishes={each.brand_id: each.name.zh or each.name.en for each in dear},
        goods_operator=Person("operator", "installation's operator"),
        store_id=store_id,
        region_unit_id=journey.CENTRE,
        district_id=journey_stage.DISTRICT,
        inside=middle,
        hotel=middle,
        attributes=[],
    )


def _household(consumer_id: str) -> Person:
    return Person(consumer_id, f"household {consumer_id.removeprefix(PREFIX)}")


async def _client_book(stage: Stage, channels: Channels) -> tuple[str, Person, list[str], list[stock_pb2.Stock]]:
    """A store of the district, its guide, two of the guide's clients who hold no coupons, and what the store keeps."""
    places: Any = places_pb2_grpc.PlaceServiceStub(channels["district"])
    stocks: Any = stock_pb2_grpc.StockServiceStub(channels["commerce"])
    venues = (await places.ListVenues(places_pb2.ListVenuesRequest(district_id=journey_stage.DISTRICT, page=PAGE))).venues
    stores = [venue.store_id for venue in venues if venue.store_id]
    random.shuffle(stores)
    for store_id in stores:
        kept = await _kept(stocks, store_id)
        guide = Person(store_id.replace("str_", "stf_"), f"guide of store {store_id.removeprefix('str_cj_')}")
        clients = await _clients(stage, guide) if kept else []
        if len(clients) == 2:
            return store_id, guide, clients, kept
    raise Surprise("no guide has two clients left who hold no coupons; `quanyu import --complete-journey` brings more households")


async def _kept(stocks: Any, store_id: str) -> list[stock_pb2.Stock]:
    """All that can be had in the store: what a household buys most may stand on any page."""
    kept: list[stock_pb2.Stock] = []
    page = PageRequest(first=100)
    for _ in range(PAGES_MAX):
        listed = await stocks.ListStocks(stock_pb2.ListStocksRequest(store_id=store_id, page=page))
        kept += [row for row in listed.stocks if row.available > 0]
        if not listed.page.has_next_page:
            break
        page.after = listed.page.end_cursor
    return kept


async def _clients(stage: Stage, guide: Person) -> list[str]:
    """At most two clients who hold no coupons."""
    staff = (await stage.ask(guide, "guide_clients", first=50))["viewer"]["staff"]
    ids = [node["consumer"]["id"] for node in staff["clients"]["nodes"]]
    random.shuffle(ids)
    free: list[str] = []
    for consumer_id in ids:
        wallet = await stage.ask(_household(consumer_id), "my_wallet", first=1)
        if not wallet["viewer"]["consumer"]["coupons"]["nodes"]:
            free.append(consumer_id)
        if len(free) == 2:
            break
    return free
