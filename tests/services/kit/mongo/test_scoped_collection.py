"""A table adds the caller's scope to every query and write."""

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
def being(caller: Caller) -> Iterator[None]:
    token = caller_context.set(caller)
    yield
    caller_context.reset(token)


@pytest.fixture
async def coupons(database: Database) -> ScopedCollection[Coupon]:
    table = ScopedCollection(
        database, "coupons", noun="COUPON", struct=Coupon, message=events_pb2.PackedCoupon,
        scopes={ScopeKind.BRAND: "brand_id", ScopeKind.CONSUMER: "consumer_id"},
    )  # fmt: skip
    with being(SYSTEM):
        for number, brand in enumerate(["brd_a", "brd_a", "brd_b"]):
            coupon = Coupon(id=f"c{number}", coupon_id=f"c{number}", brand_id=brand, consumer_id="con_a" if number == 0 else None)
            await insert(table, coupon)
    return table


async def insert(table: ScopedCollection[Coupon], coupon: Coupon) -> object:
    return await table.database.transact(lambda session: table.insert(unit_of(table, session), coupon))


def unit_of(table: ScopedCollection[Coupon], session: object) -> UnitOfWork:
    return UnitOfWork(session, AT, Outbox(table.database, "district"))


def use(coupon: Coupon, times: int = 1) -> tuple[Coupon, list[Struct]]:
    return msgspec.structs.replace(coupon, uses=coupon.uses + times), []


async def decide(table: ScopedCollection[Coupon], id: str, **arguments: int) -> object:
    return await table.database.transact(lambda session: table.apply_rule(unit_of(table, session), id, use, **arguments))


async def test_a_row_is_answered_shaped_like_the_message(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_A):
        row = await coupons.get("c0")
    message = events_pb2.PackedCoupon(**row)
    assert (message.coupon_id, message.brand_id) == ("c0", "brd_a")
    assert message.expires_at.ToDatetime(UTC) == AT
    assert set(row) == {"coupon_id", "brand_id", "expires_at"}


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
    ids=["brand a", "brand b", "consumer", "kind without a field", "nobody", "system"],
)
async def test_everybody_sees_only_what_they_reach(coupons: ScopedCollection[Coupon], caller: Caller, ids: set[str]) -> None:
    with being(caller):
        assert {row["coupon_id"] for row in await coupons.batch(["c0", "c1", "c2", "c9"])} == ids
        assert {row["coupon_id"] for row in await coupons.find({}, limit=10)} == ids
        page, _ = await coupons.page({}, PageRequest(), order=[("expires_at", -1)])
        assert {row["coupon_id"] for row in page} == ids
        for id in {"c0", "c1", "c2"} - ids:
            with pytest.raises(NotFound):
                await coupons.get(id)
            with pytest.raises(NotFound):
                await decide(coupons, id)


async def test_a_query_cannot_widen_the_scope(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_B):
        assert await coupons.find({"brand_id": "brd_a"}, limit=10) == []
        assert await coupons.find({"$or": [{"brand_id": "brd_a"}, {"consumer_id": "con_a"}]}, limit=10) == []


async def test_the_first_pages_of_several_queries_are_those_of_each(coupons: ScopedCollection[Coupon]) -> None:
    queries: dict[str, Document] = {brand: {"brand_id": brand} for brand in ("brd_a", "brd_b", "brd_none", "$_id")}
    for caller in (BRAND_A, BRAND_B, ANNA, STORE, SYSTEM):
        with being(caller):
            for first in (1, 2, 0):
                found = await coupons.first_pages(queries, first, order=[("expires_at", -1)])
                for key, query in queries.items():
                    rows, page = await coupons.page(query, PageRequest(first=first), order=[("expires_at", -1)])
                    assert found.get(key, ([], PageInfo())) == (rows, page)
                assert all(rows for rows, _ in found.values())
    with being(SYSTEM), pytest.raises(Invalid, match="INVALID_PAGE_SIZE"):
        await coupons.first_pages(queries, 101, order=[])
    assert await coupons.first_pages({}, 1, order=[]) == {}


async def test_what_is_asked_of_ones_own_needs_no_filter(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_A):
        assert coupons.restrict({"brand_id": "brd_a", "uses": 0}) == {"brand_id": "brd_a", "uses": 0}
        for other in ({"brand_id": "brd_b"}, {"brand_id": {"$in": ["brd_a"]}}, {"consumer_id": "brd_a"}, {"$or": [{"brand_id": "brd_a"}]}):
            assert coupons.restrict(other) == {"$and": [other, {"brand_id": {"$in": ["brd_a"]}}]}


async def test_first_pages_walk_the_index_of_each_query(database: Database) -> None:
    """What they cost is what they show, however many rows their keys have."""
    by_brand = IndexModel([("brand_id", 1), ("expires_at", -1), ("_id", 1)])
    table = ScopedCollection(
        database,
        "many",
        noun="COUPON",
        struct=Coupon,
        scopes={ScopeKind.BRAND: "brand_id"},
        message=events_pb2.PackedCoupon,
        indexes=[by_brand],
    )
    await table.prepare()
    rows = [{"_id": f"{brand}{number}", "brand_id": f"brd_{brand}", "expires_at": AT} for brand in range(5) for number in range(200)]
    await table.collection.insert_many(rows)
    await database.raw.command("profile", 2)
    with being(SYSTEM):
        found = await table.first_pages({f"brd_{brand}": {"brand_id": f"brd_{brand}"} for brand in range(5)}, 3, order=[("expires_at", -1)])
    await database.raw.command("profile", 0)
    assert {key: len(shown) for key, (shown, _) in found.items()} == {f"brd_{brand}": 3 for brand in range(5)}
    (profile,) = await database["system.profile"].find({"ns": f"{database.name}.many", "op": "command"}).to_list(None)
    assert profile["docsExamined"] == profile["keysExamined"] == 5 * 4


async def test_nobody_writes_into_anothers_scope(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_B):
        with pytest.raises(Denied):
            await insert(coupons, Coupon(id="c8", coupon_id="c8", brand_id="brd_a"))
        with pytest.raises(NotFound):
            await decide(coupons, "c0")
    with being(SYSTEM), pytest.raises(NotFound):
        await coupons.get("c8")


async def test_an_id_is_taken_once(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_A), pytest.raises(Conflict) as caught:
        await insert(coupons, Coupon(id="c0", coupon_id="c0", brand_id="brd_a"))
    assert caught.value.reason == "COUPON_EXISTS"


async def test_a_decision_checks_bounds_and_counts_versions(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_A):
        await decide(coupons, "c0", times=3)
        with pytest.raises(Invalid) as caught:
            await decide(coupons, "c0")
        assert caught.value.metadata["field"] == "uses"
        loaded = await coupons.load("c0")
        assert (loaded.uses, loaded.version) == (3, 2)


async def test_a_decision_that_changes_nothing_writes_nothing(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_A):
        await decide(coupons, "c0", times=0)
        assert (await coupons.load("c0")).version == 1


async def test_an_old_version_is_not_written(coupons: ScopedCollection[Coupon]) -> None:
    with being(BRAND_A):
        old = await coupons.load("c0")
        await decide(coupons, "c0")
        with pytest.raises(Conflict):
            await coupons.database.transact(lambda session: coupons.replace(unit_of(coupons, session), old))


async def test_pages_follow_each_other(coupons: ScopedCollection[Coupon]) -> None:
    with being(SYSTEM):
        first, info = await coupons.page({}, PageRequest(first=2), order=[("brand_id", -1)])
        assert [row["coupon_id"] for row in first] == ["c2", "c0"]
        assert info.has_next_page
        second, info = await coupons.page({}, PageRequest(first=2, after=info.end_cursor), order=[("brand_id", -1)])
        assert [row["coupon_id"] for row in second] == ["c1"]
        assert not info.has_next_page


async def test_public_rows_are_read_by_anybody_and_written_within_scope(database: Database, coupons: ScopedCollection[Coupon]) -> None:
    public = ScopedCollection(
        database, "coupons", noun="COUPON", struct=Coupon, message=events_pb2.PackedCoupon, scopes=coupons.scopes, public=True
    )
    with being(ANONYMOUS):
        assert len(await public.find({}, limit=10)) == 3
        with pytest.raises(NotFound):
            await decide(public, "c0")


async def test_a_batch_is_bounded(coupons: ScopedCollection[Coupon]) -> None:
    with being(SYSTEM), pytest.raises(Invalid):
        await coupons.batch([str(number) for number in range(501)])


def test_the_system_clock_gives_milliseconds() -> None:
    assert clock.now().microsecond % 1000 == 0


async def test_pages_go_on_where_their_collation_says(coupons: ScopedCollection[Coupon]) -> None:
    given = ["北京", "安徽", "上海", "朝阳", "安徽"]
    with being(SYSTEM):
        for number, name in enumerate(given):
            await insert(coupons, Coupon(id=f"z{number}", coupon_id=name, brand_id="brd_z"))
        seen, after = [], ""
        while True:
            page = PageRequest(first=2, after=after)
            rows, info = await coupons.page({"brand_id": "brd_z"}, page, order=[("coupon_id", 1)], collation=Collation(locale="zh"))
            seen += [row["coupon_id"] for row in rows]
            if not info.has_next_page:
                break
            after = info.end_cursor
    assert seen == ["安徽", "安徽", "北京", "朝阳", "上海"]


async def test_nobody_gives_a_row_away_to_others(coupons: ScopedCollection[Coupon]) -> None:
    """Neither by writing it anew nor by a decision: it would be theirs who cannot have asked for it."""
    with being(BRAND_A):
        mine = await coupons.load("c1")
        for given in (
            msgspec.structs.replace(mine, brand_id="brd_b"),
            msgspec.structs.replace(mine, brand_id="brd_b", consumer_id="con_a"),
        ):

            async def give(session: object, given: Coupon = given) -> object:
                return await coupons.replace(unit_of(coupons, session), given)

            with pytest.raises(Denied, match="OUT_OF_SCOPE"):
                await coupons.database.transact(give)
        assert await coupons.load("c1") == mine
