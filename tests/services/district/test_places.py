"""Districts, venues and visits through the rpcs."""

import asyncio
import random
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.common.v1.point_pb2 import Point
from quanyu.district.v1 import places_pb2
from services.district.places.repository import BY_NAME, IN_CHINESE
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from services.kit.mongo import pagination
from tests.services.conftest import Running
from tests.services.district.test_matching import link
from tests.services.district.world import SANLITUN, World, consumer, district_operator, fresh, plan_of
from tests.services.lists import first_pages, rows_read, says_the_same_of_each

HERE = "dst_sanlitun"


def venue(number: int, **more: object) -> places_pb2.NewVenue:
    values = {"id": f"ven_{number}", "kind": places_pb2.VENUE_KIND_STORE, "name": f"店{number:03}", "position": SANLITUN} | more
    return places_pb2.NewVenue(**values)  # type: ignore[arg-type]


async def test_anybody_sees_districts(world: World, district: Running) -> None:
    stub = world.places()
    stub = type(stub)(district.anonymous())
    found = (await stub.GetDistrict(places_pb2.GetDistrictRequest(id=HERE))).district
    assert (found.name, found.zone, found.geofence.radius_metres) == ("三里屯", "Asia/Shanghai", 800)
    assert found.position == SANLITUN
    batch = await stub.BatchGetDistricts(places_pb2.BatchGetDistrictsRequest(ids=[HERE, "dst_none"]))
    assert list(batch.districts) == [found]
    assert list((await stub.ListDistricts(places_pb2.ListDistrictsRequest())).districts) == [found]
    with pytest.raises(NotFound) as refused:
        await world.places().GetDistrict(places_pb2.GetDistrictRequest(id="dst_none"))
    assert refused.value.reason == "DISTRICT_NOT_FOUND"


async def test_a_district_stands_once_and_is_founded_by_the_operator_alone(world: World) -> None:
    with pytest.raises(Conflict) as refused:
        await world.found()
    assert refused.value.reason == "DISTRICT_EXISTS"
    with pytest.raises(Denied):
        await world.places(district_operator(HERE)).CreateDistrict(places_pb2.CreateDistrictRequest(request_id=fresh(), name="x"))
    request = places_pb2.CreateDistrictRequest(
        request_id=fresh(), name="国贸", position=SANLITUN, zone="Mars/Olympus", geofence=places_pb2.Geofence(radius_metres=800)
    )
    with pytest.raises(Invalid) as unknown:
        await world.places().CreateDistrict(request)
    assert unknown.value.reason == "INVALID_ZONE"


async def test_a_polygon_is_kept_corner_by_corner(world: World) -> None:
    corners = [Point(longitude=116.45 + x, latitude=39.93 + y) for x, y in ((0, 0), (0.01, 0), (0.01, 0.01), (0, 0.01))]
    request = places_pb2.CreateDistrictRequest(
        request_id=fresh(), name="国贸", position=SANLITUN, zone="Asia/Shanghai", geofence=places_pb2.Geofence(corners=corners)
    )
    created = (await world.places().CreateDistrict(request)).district
    found = (await world.places().GetDistrict(places_pb2.GetDistrictRequest(id=created.id))).district
    assert found == created
    assert list(found.geofence.corners) == corners


async def test_venues_are_kept_by_their_districts_operator(world: World) -> None:
    await world.found("dst_other")
    mine = world.places(district_operator(HERE))
    request = places_pb2.CreateVenueRequest(request_id=fresh(), district_id=HERE, venue=venue(1, kind=places_pb2.VENUE_KIND_HOTEL))
    created = (await mine.CreateVenue(request)).venue
    assert (created.id, created.district_id, created.kind) == ("ven_1", HERE, places_pb2.VENUE_KIND_HOTEL)
    with pytest.raises(Conflict) as taken:
        await mine.CreateVenue(places_pb2.CreateVenueRequest(request_id=fresh(), district_id=HERE, venue=venue(1)))
    assert taken.value.reason == "VENUE_EXISTS"
    with pytest.raises(Denied):
        await mine.CreateVenue(places_pb2.CreateVenueRequest(request_id=fresh(), district_id="dst_other", venue=venue(2)))
    other = world.places(district_operator("dst_other"))
    with pytest.raises(Conflict) as stolen:
        await other.ImportVenues(
            places_pb2.ImportVenuesRequest(request_id=fresh(), district_id="dst_other", venues=[venue(2), venue(1, name="mine now")])
        )
    assert stolen.value.reason == "VENUE_EXISTS"
    found = await mine.BatchGetVenues(places_pb2.BatchGetVenuesRequest(ids=["ven_1", "ven_2"]))
    assert list(found.venues) == [created]


async def test_what_stands_beyond_the_border_is_no_venue_of_the_district(world: World) -> None:
    mine = world.places(district_operator(HERE))
    far = venue(2, position=Point(longitude=SANLITUN.longitude + 0.02, latitude=SANLITUN.latitude))
    with pytest.raises(Conflict) as refused:
        await mine.CreateVenue(places_pb2.CreateVenueRequest(request_id=fresh(), district_id=HERE, venue=far))
    assert (refused.value.reason, refused.value.metadata["venue_id"]) == ("OUTSIDE_DISTRICT", "ven_2")
    with pytest.raises(Conflict, match="OUTSIDE_DISTRICT"):
        await mine.ImportVenues(places_pb2.ImportVenuesRequest(request_id=fresh(), district_id=HERE, venues=[venue(1), far]))
    assert not (await mine.BatchGetVenues(places_pb2.BatchGetVenuesRequest(ids=["ven_1", "ven_2"]))).venues


async def test_an_import_adds_and_replaces_and_pages_by_name(world: World) -> None:
    mine = world.places(district_operator(HERE))

    async def bring(*venues: places_pb2.NewVenue) -> tuple[int, int]:
        answer = await mine.ImportVenues(places_pb2.ImportVenuesRequest(request_id=fresh(), district_id=HERE, venues=venues))
        return answer.created, answer.replaced

    assert await bring(*(venue(n) for n in range(30))) == (30, 0)
    assert await bring(venue(7, kind=places_pb2.VENUE_KIND_CINEMA, brand_id="brd_a"), venue(30)) == (1, 1)
    names: list[str] = []
    page = PageRequest(first=10)
    while True:
        answer = await mine.ListVenues(places_pb2.ListVenuesRequest(district_id=HERE, page=page))
        names += [item.name for item in answer.venues]
        if not answer.page.has_next_page:
            break
        page = PageRequest(first=10, after=answer.page.end_cursor)
    assert names == [f"店{n:03}" for n in range(31)]
    cinemas = await mine.ListVenues(places_pb2.ListVenuesRequest(district_id=HERE, kinds=[places_pb2.VENUE_KIND_CINEMA]))
    assert [(item.id, item.brand_id) for item in cinemas.venues] == [("ven_7", "brd_a")]
    for wrong, field in (
        ([], "venues"),
        ([venue(1), venue(1)], "venues"),
        ([venue(1), venue(2, id="")], "venues[1].id"),
        ([venue(1, id="shop")], "venues[0].id"),
        ([venue(1), venue(2), venue(3, kind=0)], "venues[2].kind"),
    ):
        with pytest.raises(Invalid) as refused:
            await bring(*wrong)
        assert refused.value.metadata["field"] == field


IN_PINYIN = [
    "7号院",
    "安徽",
    "北京",
    "朝阳",
    "国贸",
    "国贸",
    "三里屯",
    "上海",
    "时光",
    "示例",
    "拾光",
    "西单",
    "珠江",
    "Aden",
    "Café",
    "Cafe\u0301",
    "café",
    "Zara",
]
"""Digits, Chinese names by pinyin, others; twins and names that compare as equal but are written differently.

拾 has one place for all its readings: the last of shì.
"""


async def test_names_are_listed_in_the_order_of_their_pinyin_each_once_over_all_pages(world: World, district: Running) -> None:
    names = random.sample(IN_PINYIN, len(IN_PINYIN))
    mine = world.places(district_operator(HERE))
    await mine.ImportVenues(
        places_pb2.ImportVenuesRequest(
            request_id=fresh(), district_id=HERE, venues=[venue(n, name=name, id=f"ven_{'aA_-'[n % 4]}{n}") for n, name in enumerate(names)]
        )
    )
    await district.database["districts"].delete_many({})
    for n, name in enumerate(names):
        await world.found(f"dst_{'aA_-'[n % 4]}{n}", name)

    async def listed(ask: Callable[[PageRequest], Awaitable[Any]], first: int) -> list[tuple[str, str]]:
        found, after = [], ""
        while True:
            answer = await ask(PageRequest(first=first, after=after))
            found += [(item.id, item.name) for item in getattr(answer, "venues", None) or answer.districts]
            if not answer.page.has_next_page:
                return found
            after = answer.page.end_cursor

    def venues(page: PageRequest) -> Awaitable[Any]:
        return mine.ListVenues(places_pb2.ListVenuesRequest(district_id=HERE, page=page))

    def districts(page: PageRequest) -> Awaitable[Any]:
        return mine.ListDistricts(places_pb2.ListDistrictsRequest(page=page))

    for ask in (venues, districts):
        whole = await listed(ask, 100)
        assert [name.casefold() for name in map(composed, whole)] == [composed(("", name)).casefold() for name in IN_PINYIN]
        assert len(set(whole)) == len(IN_PINYIN)
        for first in (1, 2, 3, 7):
            assert await listed(ask, first) == whole


async def test_the_first_venues_of_several_districts_are_those_of_each(world: World, district: Running) -> None:
    await world.found("dst_other")
    await world.found("dst_empty")
    for place, numbers in ((HERE, range(4)), ("dst_other", range(4, 6))):
        kinds = (places_pb2.VENUE_KIND_STORE, places_pb2.VENUE_KIND_CINEMA)
        venues = [venue(n, name=IN_PINYIN[-n], kind=kinds[n % 2]) for n in numbers]
        request = places_pb2.ImportVenuesRequest(request_id=fresh(), district_id=place, venues=venues)
        await world.places(district_operator(place)).ImportVenues(request)
    anna, rpc, asked = world.places(*consumer("con_anna")), "PlaceService.BatchListVenues", ["dst_other", HERE, "dst_empty", "dst_none"]
    assert await says_the_same_of_each(anna, rpc, "district_id", asked) == {HERE: 4, "dst_other": 2}
    assert await rows_read(district.database, "venues", first_pages(anna, rpc, "district_id", asked, 1)) == 2 + 2
    kinds = [places_pb2.VENUE_KIND_CINEMA]
    assert await says_the_same_of_each(anna, rpc, "district_id", asked, kinds=kinds) == {HERE: 2, "dst_other": 1}


def composed(item: tuple[str, str]) -> str:
    return unicodedata.normalize("NFC", item[1])


async def test_entering_again_answers_the_open_visit_and_tells_once(world: World, district: Running) -> None:
    first, *again = await asyncio.gather(*(world.enter("con_anna", request_id=f"r{n % 8}") for n in range(16)))
    assert all(visit == first for visit in again)
    assert first.state == places_pb2.VISIT_STATE_OPEN
    (event,) = await district.events_told()
    assert (event.visit_started.visit_id, event.visit_started.consumer_id) == (first.id, "con_anna")
    other = await world.enter("con_ben")
    assert other.id != first.id


async def test_leaving_ends_the_visit_once_and_a_new_one_may_begin(world: World, district: Running) -> None:
    visit = await world.enter("con_anna")
    left = await world.leave(visit)
    assert left.state == places_pb2.VISIT_STATE_LEFT
    assert left.left_at.ToDatetime() >= left.entered_at.ToDatetime()
    assert await world.leave(visit) == left
    second = await world.enter("con_anna")
    assert second.id != visit.id
    told = sorted(await district.events_told(), key=lambda event: event.at.ToDatetime())
    assert [event.WhichOneof("body") for event in told] == ["visit_started", "visit_left", "visit_started"]
    assert (told[1].visit_left.visit_id, told[1].visit_left.district_id) == (visit.id, visit.district_id)


async def test_a_visit_is_told_under_the_id_it_was_made_under_whoever_that_is(world: World, district: Running) -> None:
    """Whoever hears it knows of links as well; an undone one leaves each id its visits."""
    await link(district, "con_anna", "con_card")
    visit = await world.enter("con_card")
    assert await world.enter("con_anna") == visit
    await world.leave(visit)
    started, left = sorted(await district.events_told(), key=lambda event: event.at.ToDatetime())
    assert (started.key, started.visit_started.consumer_id) == ("con_card", "con_card")
    assert (left.key, left.visit_left.consumer_id, left.visit_left.day) == ("con_card", "con_card", visit.day)


async def test_a_day_begins_at_the_districts_midnight(world: World) -> None:
    world.at(datetime(2026, 11, 22, 15, 59, tzinfo=UTC))
    evening = await world.enter("con_anna")
    world.later(timedelta(minutes=2))
    morning = await world.enter("con_anna")
    assert (evening.day, morning.day) == ("2026-11-22", "2026-11-23")
    assert evening.id != morning.id


async def test_a_position_outside_is_refused_and_is_not_kept(world: World, district: Running) -> None:
    with pytest.raises(Conflict) as refused:
        await world.enter("con_anna", position=Point(longitude=116.5, latitude=39.9))
    assert refused.value.reason == "OUTSIDE_DISTRICT"
    await world.enter("con_anna", position=Point(longitude=116.456, latitude=39.934))
    row = await district.database["visits"].find_one()
    assert "position" not in row


async def test_a_visit_is_the_consumers_and_the_districts(world: World) -> None:
    await world.found("dst_other")
    visit = await world.enter("con_anna")
    request = places_pb2.GetVisitRequest(id=visit.id)
    for grants in (consumer("con_anna"), (district_operator(HERE),)):
        assert (await world.places(*grants).GetVisit(request)).visit == visit
    for grants in (consumer("con_ben"), (district_operator("dst_other"),)):
        with pytest.raises(NotFound) as refused:
            await world.places(*grants).GetVisit(request)
        assert refused.value.reason == "VISIT_NOT_FOUND"
        assert not (await world.places(*grants).BatchGetVisits(places_pb2.BatchGetVisitsRequest(ids=[visit.id]))).visits
    with pytest.raises(NotFound):
        await world.places(*consumer("con_ben")).LeaveDistrict(places_pb2.LeaveDistrictRequest(request_id=fresh(), visit_id=visit.id))
    with pytest.raises(Denied):
        await world.places(*consumer("con_ben")).EnterDistrict(
            places_pb2.EnterDistrictRequest(request_id=fresh(), consumer_id="con_anna", district_id=HERE, touchpoint=3)
        )
    with pytest.raises(Invalid):
        await world.places(*consumer("con_anna")).EnterDistrict(
            places_pb2.EnterDistrictRequest(request_id=fresh(), consumer_id="con_anna", district_id=HERE)
        )


async def test_hot_queries_walk_an_index(world: World, district: Running) -> None:
    visits, venues = district.database["visits"], district.database["venues"]
    assert await plan_of(visits.find({"open_key": "con_anna|dst_sanlitun|2026-11-22"})) == "FETCH IXSCAN"
    assert await plan_of(venues.find({"store_id": "str_here"}, {"_id": 0, "district_id": 1})) == "PROJECTION_COVERED IXSCAN"
    later = pagination.after([*BY_NAME, ("_id", 1)], ["北京", "ven_1"])
    for collection, query in (
        (venues, {"district_id": HERE}),
        (venues, {"$and": [{"district_id": HERE}, later]}),
        (district.database["districts"], {}),
        (district.database["districts"], later),
    ):
        plan = await plan_of(collection.find(query).sort([*BY_NAME, ("_id", 1)]).collation(IN_CHINESE))
        assert "IXSCAN" in plan and not {"COLLSCAN", "SORT"} & set(plan.split()), plan
