"""Setup of the story in the Complete Journey: a real household, in the district of the busiest stores."""

import random
from typing import Any

from quanyu.commerce.v1 import catalog_pb2, catalog_pb2_grpc, stock_pb2, stock_pb2_grpc
from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import places_pb2, places_pb2_grpc
from services.local import campaign
from services.local.imports import journey, journey_district
from services.local.story.gateway_client import GatewayClient, Person, StoryError
from services.local.story.setup import Channels, StorySetup

PAGE = PageRequest(first=100)
PAGES_MAX = 5
PREFIX = "con_cj_"


async def prepare(gateway: GatewayClient, channels: Channels) -> StorySetup:
    """Chooses a household without coupons from a guide's client book, and the products it may search for."""
    if not any(campaign.is_running(each) for each in await campaign.list_campaigns(channels, journey_district.PLAN)):
        raise StoryError("the Complete Journey is not imported, or its campaign has ended; run `quanyu import --complete-journey`")
    store_id, guide, clients, available = await _choose_guide(gateway, channels)
    catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channels["commerce"])
    request = catalog_pb2.BatchGetVariantsRequest(ids=[row.variant_id for row in available])
    priced = [each for each in (await catalog.BatchGetVariants(request)).variants if each.price.minor >= journey_district.MINIMUM_MINOR]
    middle = {"longitude": journey.MIDDLE.longitude, "latitude": journey.MIDDLE.latitude}
    return StorySetup(
        consumer=_household(clients[0]),
        friend=_household(clients[1]),
        guide=guide,
        manager=guide,
        friend_is_client=True,
        operator=Person("stf_cj_operator", "retailer's operator"),
        brand_id=journey.RETAILER,
        wishes={each.brand_id: each.name.zh or each.name.en for each in priced},
        goods_operator=Person("operator", "installation's operator"),
        store_id=store_id,
        region_org_unit_id=journey.CENTRE,
        district_id=journey_district.DISTRICT,
        inside=middle,
        hotel=middle,
        attributes=[],
    )


def _household(consumer_id: str) -> Person:
    return Person(consumer_id, f"household {consumer_id.removeprefix(PREFIX)}")


async def _choose_guide(gateway: GatewayClient, channels: Channels) -> tuple[str, Person, list[str], list[stock_pb2.Stock]]:
    """Returns a store of the district, its guide, two of the guide's clients without coupons, and the store's available stock."""
    places: Any = places_pb2_grpc.PlaceServiceStub(channels["district"])
    stocks: Any = stock_pb2_grpc.StockServiceStub(channels["commerce"])
    venues = (await places.ListVenues(places_pb2.ListVenuesRequest(district_id=journey_district.DISTRICT, page=PAGE))).venues
    stores = [venue.store_id for venue in venues if venue.store_id]
    random.shuffle(stores)
    for store_id in stores:
        available = await _list_available(stocks, store_id)
        guide = Person(store_id.replace("str_", "stf_"), f"guide of store {store_id.removeprefix('str_cj_')}")
        clients = await _find_clients(gateway, guide) if available else []
        if len(clients) == 2:
            return store_id, guide, clients, available
    raise StoryError("every guide has fewer than two clients without coupons; `quanyu import --complete-journey` adds households")


async def _list_available(stocks: Any, store_id: str) -> list[stock_pb2.Stock]:
    """Returns the available stock of a store, from all pages."""
    available: list[stock_pb2.Stock] = []
    page = PageRequest(first=100)
    for _ in range(PAGES_MAX):
        listed = await stocks.ListStocks(stock_pb2.ListStocksRequest(store_id=store_id, page=page))
        available += [row for row in listed.stocks if row.available > 0]
        if not listed.page.has_next_page:
            break
        page.after = listed.page.end_cursor
    return available


async def _find_clients(gateway: GatewayClient, guide: Person) -> list[str]:
    """Returns at most two clients without coupons."""
    staff = (await gateway.execute(guide, "guide_clients", first=50))["viewer"]["staff"]
    ids = [node["consumer"]["id"] for node in staff["clients"]["nodes"]]
    random.shuffle(ids)
    free: list[str] = []
    for consumer_id in ids:
        wallet = await gateway.execute(_household(consumer_id), "my_wallet", first=1)
        if not wallet["viewer"]["consumer"]["coupons"]["nodes"]:
            free.append(consumer_id)
        if len(free) == 2:
            break
    return free
