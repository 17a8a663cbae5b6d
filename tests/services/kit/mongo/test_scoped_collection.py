"""Tests of the scoped collection: it adds the caller's scope to every query and write."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Struct
from pymongo import IndexModel
from pymongo.collation import Collation

from quanyu.common.v1.page_pb2 import PageInfo, PageRequest
from quanyu.events.v1 import events_pb2
from services.kit import clock
from services.kit.enums import ScopeKind
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.kit.mongo.client import Database, Document
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.security.caller import ANONYMOUS, SYSTEM, Caller, caller_context
from services.kit.transactions.outbox import Outbox
from services.kit.transactions.unit_of_work import UnitOfWork

AT = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)


class Coupon(Struct, frozen=True):
    id: str
    coupon_id: str
    brand_id: str
    version: int = 1
    consumer_id: str | None = None
    expires_at: datetime = AT
    uses: Annotated[int, Meta(ge=0, le=3)] = 0


ANNA = Caller(id="con_a", reach={ScopeKind.CONSUMER: frozenset({"con_a"})})
BRAND_A = Caller(id="stf_a", reach={ScopeKind.BRAND: frozenset({"brd_a"})})
BRAND_B = Caller(id="stf_b", reach={ScopeKind.BRAND: frozenset({"brd_b"})})
STORE = Caller(id="stf_s", reach={ScopeKind.STORE: frozenset({"str_a"})})


@contextmanager
def as_caller(caller: Caller) -> Iterator[None]:
    token = caller_context.set(caller)
    yield
    caller_context.reset(token)


@pytest.fixture
async def coupons(database: Database) -> ScopedCollection[Coupon]:
    collection = ScopedCollection(
        database, "coupons", noun="COUPON", struct=Coupon, message=events_pb2.PackedCoupon,
        scopes={ScopeKind.BRAND: "brand_id", ScopeKind.CONSUMER: "consumer_id"},
    )  # fmt: skip
    with as_caller(SYSTEM):
        for number, brand in enumerate(["brd_a", "brd_a", "brd_b"]):
            coupon = Coupon(id=f"c{number}", coupon_id=f"c{number}", brand_id=brand, consumer_id="con_a" if number == 0 else None)
            await insert(collection, coupon)
    return collection


async def insert(collection: ScopedCollection[Coupon], coupon: Coupon) -> object:
    return await collection.database.transact(lambda session: collection.insert(make_unit(collection, session), coupon))


def make_unit(collection: ScopedCollection[Coupon], session: object) -> UnitOfWork:
    return UnitOfWork(session, AT, Outbox(collection.database, "district"))


def use(coupon: Coupon, times: int = 1) -> tuple[Coupon, list[Struct]]:
    return msgspec.structs.replace(coupon, uses=coupon.uses + times), []


async def decide(collection: ScopedCollection[Coupon], id: str, **arguments: int) -> object:
    return await collection.database.transact(lambda session: collection.apply_rule(make_unit(collection, session), id, use, **arguments))


async def test_document_is_shaped_like_the_message(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_A):
        document = await coupons.get("c0")
    message = events_pb2.PackedCoupon(**document)
    assert (message.coupon_id, message.brand_id) == ("c0", "brd_a")
    assert message.expires_at.ToDatetime(UTC) == AT
    assert set(document) == {"coupon_id", "brand_id", "expires_at"}


@pytest.mark.parametrize(
    ("caller", "ids"),
    [
        (BRAND_A, {"c0", "c1"}),
        (BRAND_B, {"c2"}),
        (ANNA, {"c0"}),
        (STORE, set()),
        (ANONYMOUS, set()),
        (SYSTEM, {"c0", "c1", "c2"}),
    ],
    ids=["brand a", "brand b", "consumer", "kind without a field", "anonymous", "system"],
)
async def test_caller_reads_only_documents_in_scope(coupons: ScopedCollection[Coupon], caller: Caller, ids: set[str]) -> None:
    with as_caller(caller):
        assert {document["coupon_id"] for document in await coupons.batch(["c0", "c1", "c2", "c9"])} == ids
        assert {document["coupon_id"] for document in await coupons.find({}, limit=10)} == ids
        page, _ = await coupons.page({}, PageRequest(), order=[("expires_at", -1)])
        assert {document["coupon_id"] for document in page} == ids
        for id in {"c0", "c1", "c2"} - ids:
            with pytest.raises(NotFound):
                await coupons.get(id)
            with pytest.raises(NotFound):
                await decide(coupons, id)


async def test_query_cannot_widen_the_scope(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_B):
        assert await coupons.find({"brand_id": "brd_a"}, limit=10) == []
        assert await coupons.find({"$or": [{"brand_id": "brd_a"}, {"consumer_id": "con_a"}]}, limit=10) == []


async def test_first_pages_equal_the_pages_of_each_query(coupons: ScopedCollection[Coupon]) -> None:
    queries: dict[str, Document] = {brand: {"brand_id": brand} for brand in ("brd_a", "brd_b", "brd_none", "$_id")}
    for caller in (BRAND_A, BRAND_B, ANNA, STORE, SYSTEM):
        with as_caller(caller):
            for first in (1, 2, 0):
                found = await coupons.first_pages(queries, first, order=[("expires_at", -1)])
                for key, query in queries.items():
                    documents, page = await coupons.page(query, PageRequest(first=first), order=[("expires_at", -1)])
                    assert found.get(key, ([], PageInfo())) == (documents, page)
                assert all(documents for documents, _ in found.values())
    with as_caller(SYSTEM), pytest.raises(Invalid, match="INVALID_PAGE_SIZE"):
        await coupons.first_pages(queries, 101, order=[])
    assert await coupons.first_pages({}, 1, order=[]) == {}


async def test_query_within_scope_needs_no_filter(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_A):
        assert coupons.restrict({"brand_id": "brd_a", "uses": 0}) == {"brand_id": "brd_a", "uses": 0}
        for other in ({"brand_id": "brd_b"}, {"brand_id": {"$in": ["brd_a"]}}, {"consumer_id": "brd_a"}, {"$or": [{"brand_id": "brd_a"}]}):
            assert coupons.restrict(other) == {"$and": [other, {"brand_id": {"$in": ["brd_a"]}}]}


async def test_first_pages_use_the_index_of_each_query(database: Database) -> None:
    """The cost is that of the returned documents, however many documents the keys have."""
    by_brand = IndexModel([("brand_id", 1), ("expires_at", -1), ("_id", 1)])
    collection = ScopedCollection(
        database,
        "many",
        noun="COUPON",
        struct=Coupon,
        scopes={ScopeKind.BRAND: "brand_id"},
        message=events_pb2.PackedCoupon,
        indexes=[by_brand],
    )
    await collection.prepare()
    documents = [{"_id": f"{brand}{number}", "brand_id": f"brd_{brand}", "expires_at": AT} for brand in range(5) for number in range(200)]
    await collection.collection.insert_many(documents)
    await database.raw.command("profile", 2)
    with as_caller(SYSTEM):
        found = await collection.first_pages(
            {f"brd_{brand}": {"brand_id": f"brd_{brand}"} for brand in range(5)}, 3, order=[("expires_at", -1)]
        )
    await database.raw.command("profile", 0)
    assert {key: len(documents) for key, (documents, _) in found.items()} == {f"brd_{brand}": 3 for brand in range(5)}
    (profile,) = await database["system.profile"].find({"ns": f"{database.name}.many", "op": "command"}).to_list(None)
    assert profile["docsExamined"] == profile["keysExamined"] == 5 * 4


async def test_write_outside_of_the_scope_is_refused(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_B):
        with pytest.raises(Denied):
            await insert(coupons, Coupon(id="c8", coupon_id="c8", brand_id="brd_a"))
        with pytest.raises(NotFound):
            await decide(coupons, "c0")
    with as_caller(SYSTEM), pytest.raises(NotFound):
        await coupons.get("c8")


async def test_existing_id_is_refused(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_A), pytest.raises(Conflict) as caught:
        await insert(coupons, Coupon(id="c0", coupon_id="c0", brand_id="brd_a"))
    assert caught.value.reason == "COUPON_EXISTS"


async def test_rule_is_bounded_and_increments_the_version(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_A):
        await decide(coupons, "c0", times=3)
        with pytest.raises(Invalid) as caught:
            await decide(coupons, "c0")
        assert caught.value.metadata["field"] == "uses"
        loaded = await coupons.load("c0")
        assert (loaded.uses, loaded.version) == (3, 2)


async def test_rule_without_a_change_writes_nothing(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_A):
        await decide(coupons, "c0", times=0)
        assert (await coupons.load("c0")).version == 1


async def test_old_version_is_not_written(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(BRAND_A):
        old = await coupons.load("c0")
        await decide(coupons, "c0")
        with pytest.raises(Conflict):
            await coupons.database.transact(lambda session: coupons.replace(make_unit(coupons, session), old))


async def test_pages_continue_at_the_cursor(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(SYSTEM):
        first, info = await coupons.page({}, PageRequest(first=2), order=[("brand_id", -1)])
        assert [document["coupon_id"] for document in first] == ["c2", "c0"]
        assert info.has_next_page
        second, info = await coupons.page({}, PageRequest(first=2, after=info.end_cursor), order=[("brand_id", -1)])
        assert [document["coupon_id"] for document in second] == ["c1"]
        assert not info.has_next_page


async def test_public_documents_are_writable_only_in_scope(database: Database, coupons: ScopedCollection[Coupon]) -> None:
    public = ScopedCollection(
        database, "coupons", noun="COUPON", struct=Coupon, message=events_pb2.PackedCoupon, scopes=coupons.scopes, public=True
    )
    with as_caller(ANONYMOUS):
        assert len(await public.find({}, limit=10)) == 3
        with pytest.raises(NotFound):
            await decide(public, "c0")


async def test_too_large_batch_is_refused(coupons: ScopedCollection[Coupon]) -> None:
    with as_caller(SYSTEM), pytest.raises(Invalid):
        await coupons.batch([str(number) for number in range(501)])


def test_clock_returns_milliseconds() -> None:
    assert clock.now().microsecond % 1000 == 0


async def test_pages_continue_in_order_of_the_collation(coupons: ScopedCollection[Coupon]) -> None:
    names = ["北京", "安徽", "上海", "朝阳", "安徽"]
    with as_caller(SYSTEM):
        for number, name in enumerate(names):
            await insert(coupons, Coupon(id=f"z{number}", coupon_id=name, brand_id="brd_z"))
        seen, after = [], ""
        while True:
            page = PageRequest(first=2, after=after)
            documents, info = await coupons.page({"brand_id": "brd_z"}, page, order=[("coupon_id", 1)], collation=Collation(locale="zh"))
            seen += [document["coupon_id"] for document in documents]
            if not info.has_next_page:
                break
            after = info.end_cursor
    assert seen == ["安徽", "安徽", "北京", "朝阳", "上海"]


async def test_document_cannot_move_out_of_the_scope(coupons: ScopedCollection[Coupon]) -> None:
    """A document that moves out of the scope would belong to an owner who has not agreed."""
    with as_caller(BRAND_A):
        own = await coupons.load("c1")
        for moved in (
            msgspec.structs.replace(own, brand_id="brd_b"),
            msgspec.structs.replace(own, brand_id="brd_b", consumer_id="con_a"),
        ):

            async def move(session: object, moved: Coupon = moved) -> object:
                return await coupons.replace(make_unit(coupons, session), moved)

            with pytest.raises(Denied, match="OUT_OF_SCOPE"):
                await coupons.database.transact(move)
        assert await coupons.load("c1") == own
