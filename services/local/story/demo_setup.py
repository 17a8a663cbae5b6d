"""Setup of the story in the demo world: a new consumer for each run, with a purchase history."""

from datetime import timedelta
from typing import Any

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc, stock_pb2, stock_pb2_grpc
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.touch_pb2 import Touchpoint
from quanyu.member.v1 import consent_pb2, identity_pb2, identity_pb2_grpc, outreach_pb2, outreach_pb2_grpc
from services.kit.values.opening_hours import moment
from services.local.demo import setup as demo_world
from services.local.demo import tables, world
from services.local.story.gateway_client import ZONE, GatewayClient, Person, StoryError
from services.local.story.setup import Channels, StorySetup

PURPOSES = (consent_pb2.PURPOSE_PERSONALIZATION, consent_pb2.PURPOSE_OUTREACH, consent_pb2.PURPOSE_DISTRICT_COUPONS)
FAVOURITES = ("baiyu", "shiguang", "lantang", "muhe", "yunluo", "zhiwei", "hupo", "nanqiao", "qingye")
"""The brands of the new consumer's history, the most bought first."""
UNCONSENTED = "lantang"
FAVOURITE_DAYS_AGO = (5, 30, 410)
"""Two orders of the first brand lie within half a year, so that the next one reaches the stage LOYALTY. The oldest has lapsed."""
FEN = 100


async def prepare(gateway: GatewayClient, channels: Channels) -> StorySetup:
    """Creates a consumer with 14 months of history, a friend, and one white shirt of size 40 in stock."""
    if not await demo_world.has_running_campaign(channels):
        raise StoryError("the demo world is not loaded, or its campaign has ended; run `quanyu demo`")
    store = world.PLACES["taikoo"]
    brand = next(each for each in world.BRANDS if each.id == world.SHIRT_BRAND)
    setup = StorySetup(
        consumer=Person(f"con_story_{gateway.key}", "林晓 Lin Xiao"),
        friend=Person(f"con_friend_{gateway.key}", "周静 Zhou Jing"),
        guide=Person(tables.guide_id(brand, store, 1), "导购 guide"),
        manager=Person(f"stf_{brand.key}_{store.key}_manager", "店长 store manager"),
        operator=Person(f"stf_{brand.key}_operator", "品牌运营 brand operator"),
        brand_id=brand.id,
        wishes={brand.id: "白衬衫"},
        goods_operator=Person(f"stf_{brand.key}_operator", "品牌运营 brand operator"),
        store_id=tables.store_id(brand, store),
        region_org_unit_id=f"unt_{brand.key}_north",
        district_id=world.DISTRICT,
        inside=_point(tables.place(30, 40)),
        hotel=_point(tables.place(-200, 150)),
        attributes=[{"name": "size", "value": "40"}],
        last_of=world.SHIRT_VARIANT,
        spent=world.SPENT_BRAND,
        unconsented=f"brd_{UNCONSENTED}",
    )
    await _register_people(gateway, channels, setup)
    await _import_orders(gateway, channels, setup)
    await _stock_one_piece(gateway, channels, setup)
    return setup


def _point(place: tuple[float, float]) -> dict[str, float]:
    return {"longitude": place[0], "latitude": place[1]}


async def _register_people(gateway: GatewayClient, channels: Channels, setup: StorySetup) -> None:
    """Registers both. The consumer has consented to all brands of the history except one, the friend to one brand only."""
    stub: Any = identity_pb2_grpc.IdentityServiceStub(channels["member"])
    consented = [key for key in FAVOURITES if key != UNCONSENTED]
    for person, name, brand_keys in ((setup.consumer, "林晓", consented), (setup.friend, "周静", ["shiguang"])):
        consents = [
            identity_pb2.ImportedConsent(
                brand_id=f"brd_{key}", purpose=purpose, granted=True, touchpoint=Touchpoint.TOUCHPOINT_MINI_PROGRAM
            )
            for key in brand_keys
            for purpose in PURPOSES
        ]
        row = identity_pb2.ImportedConsumer(
            consumer_id=person.subject,
            display_name=name,
            sizes={"shirt": "40"},
            consents=consents,
            identities=[identity_pb2.NewIdentity(kind=identity_pb2.IDENTITY_KIND_CARD, value=f"STORY-{person.subject}", verified=True)],
        )
        row.created_at.FromDatetime(gateway.at - timedelta(days=430))
        await stub.ImportConsumers(
            identity_pb2.ImportConsumersRequest(request_id=f"story:{person.subject}", brand_id=setup.brand_id, consumers=[row])
        )
    binding = outreach_pb2.ImportedBinding(consumer_id=setup.consumer.subject, staff_id=setup.guide.subject)
    bindings: Any = outreach_pb2_grpc.OutreachServiceStub(channels["member"])
    await bindings.ImportBindings(
        outreach_pb2.ImportBindingsRequest(request_id=f"story:{gateway.key}", brand_id=setup.brand_id, bindings=[binding])
    )


async def _import_orders(gateway: GatewayClient, channels: Channels, setup: StorySetup) -> None:
    """Imports 14 months of orders of the consumer, and one order of the friend."""
    orders = [_order(gateway, setup.friend.subject, "shiguang", 0, 40)]
    for rank, key in enumerate(FAVOURITES):
        ages = (4 + 4 * rank, 80 + 20 * rank, 300 + 10 * rank) if rank else FAVOURITE_DAYS_AGO
        orders += [_order(gateway, setup.consumer.subject, key, number, days_ago) for number, days_ago in enumerate(ages)]
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    answer = await stub.ImportOrders(orders_pb2.ImportOrdersRequest(request_id=f"story:{gateway.key}", orders=orders))
    if answer.rejects:
        raise StoryError(f"the order history is rejected: {answer.rejects[0].message}")


def _order(gateway: GatewayClient, consumer_id: str, key: str, number: int, days_ago: int) -> orders_pb2.ImportedOrder:
    brand = next(each for each in world.BRANDS if each.key == key)
    sold = tables.variants_of(brand)
    _, variant_id, _, (_, _, _, price) = sold[number % len(sold)]
    order = orders_pb2.ImportedOrder(
        order_id=f"ord_{consumer_id.removeprefix('con_')}_{key}_{number}",
        consumer_id=consumer_id,
        store_id=tables.store_id(brand, tables.shops_of(brand)[0]),
        touchpoint=Touchpoint.TOUCHPOINT_STORE if number % 2 else Touchpoint.TOUCHPOINT_MINI_PROGRAM,
        lines=[orders_pb2.ImportedLine(variant_id=variant_id, quantity=1, paid=Money(minor=price * FEN, currency="CNY"))],
    )
    order.paid_at.FromDatetime(moment(gateway.day - timedelta(days=days_ago), 15 * 60, ZONE))
    return order


async def _stock_one_piece(gateway: GatewayClient, channels: Channels, setup: StorySetup) -> None:
    """Sets the stock to one piece more than is reserved: an interrupted story may have left a hold."""
    stub: Any = stock_pb2_grpc.StockServiceStub(channels["commerce"])
    stocks = await stub.BatchGetStocks(stock_pb2.BatchGetStocksRequest(ids=[f"{setup.store_id}:{setup.last_of}"]))
    reserved = int(stocks.stocks[0].reserved) if stocks.stocks else 0
    await gateway.mutate_or_fail(
        setup.manager,
        "set_stock",
        idempotencyKey=f"story:{gateway.key}",
        storeId=setup.store_id,
        variantId=setup.last_of,
        onHand=reserved + 1,
    )
