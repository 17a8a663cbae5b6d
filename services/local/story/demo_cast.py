"""Who and what the walk needs in the demo world: a fresh consumer each time, with a history of her own."""

from datetime import timedelta
from typing import Any

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc, stock_pb2, stock_pb2_grpc
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.touch_pb2 import Touchpoint
from quanyu.member.v1 import consent_pb2, identity_pb2, identity_pb2_grpc, outreach_pb2, outreach_pb2_grpc
from services.kit.calendar import moment
from services.local.demo import stage as demo_stage
from services.local.demo import tables, world
from services.local.story.cast import Cast, Channels
from services.local.story.stage import ZONE, Person, Stage, Surprise

PURPOSES = (consent_pb2.PURPOSE_PERSONALIZATION, consent_pb2.PURPOSE_OUTREACH, consent_pb2.PURPOSE_DISTRICT_COUPONS)
LIKED = ("baiyu", "shiguang", "lantang", "muhe", "yunluo", "zhiwei", "hupo", "nanqiao", "qingye")
"""Brands of the fresh consumer's history, the dearest first."""
UNCONSENTED = "lantang"
DEAREST_DAYS_AGO = (5, 30, 410)
"""Two orders within half a year: the next one makes her loyal. The oldest lapsed meanwhile."""
FEN = 100


async def cast(stage: Stage, channels: Channels) -> Cast:
    """A fresh consumer with fourteen months of history in Sanlitun, her friend, and one white shirt of size 40."""
    if not await demo_stage.is_running(channels):
        raise Surprise("the demo world is not loaded, or its campaign has ended; `quanyu demo` puts either right")
    store = world.PLACES["taikoo"]
    brand = next(each for each in world.BRANDS if each.id == world.SHIRT_BRAND)
    made = Cast(
        consumer=Person(f"con_story_{stage.key}", "林晓 Lin Xiao"),
        friend=Person(f"con_friend_{stage.key}", "周静 Zhou Jing"),
        guide=Person(tables.guide_id(brand, store, 1), "导购 guide"),
        manager=Person(f"stf_{brand.key}_{store.key}_manager", "店长 store manager"),
        operator=Person(f"stf_{brand.key}_operator", "品牌运营 brand operator"),
        brand_id=brand.id,
        wishes={brand.id: "白衬衫"},
        goods_operator=Person(f"stf_{brand.key}_operator", "品牌运营 brand operator"),
        store_id=tables.store_id(brand, store),
        region_unit_id=f"unt_{brand.key}_north",
        district_id=world.DISTRICT,
        inside=_point(tables.place(30, 40)),
        hotel=_point(tables.place(-200, 150)),
        attributes=[{"name": "size", "value": "40"}],
        last_of=world.SHIRT_VARIANT,
        spent=world.SPENT_BRAND,
        unconsented=f"brd_{UNCONSENTED}",
    )
    await _people(stage, channels, made)
    await _histories(stage, channels, made)
    await _one_left(stage, channels, made)
    return made


def _point(place: tuple[float, float]) -> dict[str, float]:
    return {"longitude": place[0], "latitude": place[1]}


async def _people(stage: Stage, channels: Channels, cast: Cast) -> None:
    """Registers both; the consumer has consented to all brands of her history but one, the friend to one brand only."""
    stub: Any = identity_pb2_grpc.IdentityServiceStub(channels["member"])
    for person, name, liked in ((cast.consumer, "林晓", [key for key in LIKED if key != UNCONSENTED]), (cast.friend, "周静", ["shiguang"])):
        consents = [
            identity_pb2.ImportedConsent(
                brand_id=f"brd_{key}", purpose=purpose, granted=True, touchpoint=Touchpoint.TOUCHPOINT_MINI_PROGRAM
            )
            for key in liked
            for purpose in PURPOSES
        ]
        row = identity_pb2.ImportedConsumer(
            consumer_id=person.subject,
            display_name=name,
            sizes={"shirt": "40"},
            consents=consents,
            identities=[identity_pb2.NewIdentity(kind=identity_pb2.IDENTITY_KIND_CARD, value=f"STORY-{person.subject}", verified=True)],
        )
        row.created_at.FromDatetime(stage.at - timedelta(days=430))
        await stub.ImportConsumers(
            identity_pb2.ImportConsumersRequest(request_id=f"story:{person.subject}", brand_id=cast.brand_id, consumers=[row])
        )
    binding = outreach_pb2.ImportedBinding(consumer_id=cast.consumer.subject, staff_id=cast.guide.subject)
    bindings: Any = outreach_pb2_grpc.OutreachServiceStub(channels["member"])
    await bindings.ImportBindings(
        outreach_pb2.ImportBindingsRequest(request_id=f"story:{stage.key}", brand_id=cast.brand_id, bindings=[binding])
    )


async def _histories(stage: Stage, channels: Channels, cast: Cast) -> None:
    """Fourteen months of purchases; the friend bought glasses once."""
    orders = [_order(stage, cast.friend.subject, "shiguang", 0, 40)]
    for rank, key in enumerate(LIKED):
        ages = (4 + 4 * rank, 80 + 20 * rank, 300 + 10 * rank) if rank else DEAREST_DAYS_AGO
        orders += [_order(stage, cast.consumer.subject, key, number, days_ago) for number, days_ago in enumerate(ages)]
    stub: Any = orders_pb2_grpc.OrderServiceStub(channels["commerce"])
    answer = await stub.ImportOrders(orders_pb2.ImportOrdersRequest(request_id=f"story:{stage.key}", orders=orders))
    if answer.rejects:
        raise Surprise(f"the history is not taken: {answer.rejects[0].message}")


def _order(stage: Stage, consumer_id: str, key: str, number: int, days_ago: int) -> orders_pb2.ImportedOrder:
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
    order.paid_at.FromDatetime(moment(stage.day - timedelta(days=days_ago), 15 * 60, ZONE))
    return order


async def _one_left(stage: Stage, channels: Channels, cast: Cast) -> None:
    """The store counts one piece beside those that are held: by whom an earlier story was broken off."""
    stub: Any = stock_pb2_grpc.StockServiceStub(channels["commerce"])
    stocks = await stub.BatchGetStocks(stock_pb2.BatchGetStocksRequest(ids=[f"{cast.store_id}:{cast.last_of}"]))
    reserved = int(stocks.stocks[0].reserved) if stocks.stocks else 0
    await stage.done(
        cast.manager, "set_stock", idempotencyKey=f"story:{stage.key}", storeId=cast.store_id, variantId=cast.last_of, onHand=reserved + 1
    )
