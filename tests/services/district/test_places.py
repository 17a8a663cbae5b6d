"""PlaceService: districts, venues and visits."""

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
from tests.services.conftest import ServiceHarness
from tests.services.district.test_matching import link
from tests.services.district.world import SANLITUN, World, consumer_grants, district_operator, list_plan_stages, new_id
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages

DISTRICT = "dst_sanlitun"


def new_venue(number: int, **more: object) -> places_pb2.NewVenue:
    values = {"id": f"ven_{number}", "kind": places_pb2.VENUE_KIND_STORE, "name": f"店{number:03}", "position": SANLITUN} | more
    return places_pb2.NewVenue(**values)  # type: ignore[arg-type]


async def test_districts_are_public(world: World, district: ServiceHarness) -> None:
    stub = world.places()
    stub = type(stub)(district.anonymous())
    found = (await stub.GetDistrict(places_pb2.GetDistrictRequest(id=DISTRICT))).district
    assert (found.name, found.zone, found.geofence.radius_metres) == ("三里屯", "Asia/Shanghai", 800)
    assert found.position == SANLITUN
    batch = await stub.BatchGetDistricts(places_pb2.BatchGetDistrictsRequest(ids=[DISTRICT, "dst_none"]))
    assert list(batch.districts) == [found]
    assert list((await stub.ListDistricts(places_pb2.ListDistrictsRequest())).districts) == [found]
    with pytest.raises(NotFound) as refused:
        await world.places().GetDistrict(places_pb2.GetDistrictRequest(id="dst_none"))
    assert refused.value.reason == "DISTRICT_NOT_FOUND"


async def test_only_the_operator_creates_a_district_once(world: World) -> None:
    with pytest.raises(Conflict) as refused:
        await world.create_district()
    assert refused.value.reason == "DISTRICT_EXISTS"
    with pytest.raises(Denied):
        await world.places(district_operator(DISTRICT)).CreateDistrict(places_pb2.CreateDistrictRequest(request_id=new_id(), name="x"))
    request = places_pb2.CreateDistrictRequest(
        request_id=new_id(), name="国贸", position=SANLITUN, zone="Mars/Olympus", geofence=places_pb2.Geofence(radius_metres=800)
    )
    with pytest.raises(Invalid) as unknown:
        await world.places().CreateDistrict(request)
    assert unknown.value.reason == "INVALID_ZONE"


async def test_polygon_is_stored_with_all_corners(world: World) -> None:
    corners = [Point(longitude=116.45 + x, latitude=39.93 + y) for x, y in ((0, 0), (0.01, 0), (0.01, 0.01), (0, 0.01))]
    request = places_pb2.CreateDistrictRequest(
        request_id=new_id(), name="国贸", position=SANLITUN, zone="Asia/Shanghai", geofence=places_pb2.Geofence(corners=corners)
    )
    created = (await world.places().CreateDistrict(request)).district
    found = (await world.places().GetDistrict(places_pb2.GetDistrictRequest(id=created.id))).district
    assert found == created
    assert list(found.geofence.corners) == corners


async def test_only_district_operators_create_venues(world: World) -> None:
    await world.create_district("dst_other")
    own = world.places(district_operator(DISTRICT))
    request = places_pb2.CreateVenueRequest(request_id=new_id(), district_id=DISTRICT, venue=new_venue(1, kind=places_pb2.VENUE_KIND_HOTEL))
    created = (await own.CreateVenue(request)).venue
    assert (created.id, created.district_id, created.kind) == ("ven_1", DISTRICT, places_pb2.VENUE_KIND_HOTEL)
    with pytest.raises(Conflict) as taken:
        await own.CreateVenue(places_pb2.CreateVenueRequest(request_id=new_id(), district_id=DISTRICT, venue=new_venue(1)))
    assert taken.value.reason == "VENUE_EXISTS"
    with pytest.raises(Denied):
        await own.CreateVenue(places_pb2.CreateVenueRequest(request_id=new_id(), district_id="dst_other", venue=new_venue(2)))
    other = world.places(district_operator("dst_other"))
    with pytest.raises(Conflict) as stolen:
        await other.ImportVenues(
            places_pb2.ImportVenuesRequest(
                request_id=new_id(), district_id="dst_other", venues=[new_venue(2), new_venue(1, name="mine now")]
            )
        )
    assert stolen.value.reason == "VENUE_EXISTS"
    found = await own.BatchGetVenues(places_pb2.BatchGetVenuesRequest(ids=["ven_1", "ven_2"]))
    assert list(found.venues) == [created]


async def test_venue_outside_the_geofence_is_refused(world: World) -> None:
    own = world.places(district_operator(DISTRICT))
    far = new_venue(2, position=Point(longitude=SANLITUN.longitude + 0.02, latitude=SANLITUN.latitude))
    with pytest.raises(Conflict) as refused:
        await own.CreateVenue(places_pb2.CreateVenueRequest(request_id=new_id(), district_id=DISTRICT, venue=far))
    assert (refused.value.reason, refused.value.metadata["venue_id"]) == ("OUTSIDE_DISTRICT", "ven_2")
    with pytest.raises(Conflict, match="OUTSIDE_DISTRICT"):
        await own.ImportVenues(places_pb2.ImportVenuesRequest(request_id=new_id(), district_id=DISTRICT, venues=[new_venue(1), far]))
    assert not (await own.BatchGetVenues(places_pb2.BatchGetVenuesRequest(ids=["ven_1", "ven_2"]))).venues


async def test_import_adds_and_replaces_venues(world: World) -> None:
    own = world.places(district_operator(DISTRICT))

    async def import_venues(*venues: places_pb2.NewVenue) -> tuple[int, int]:
        answer = await own.ImportVenues(places_pb2.ImportVenuesRequest(request_id=new_id(), district_id=DISTRICT, venues=venues))
        return answer.created, answer.replaced

    assert await import_venues(*(new_venue(n) for n in range(30))) == (30, 0)
    assert await import_venues(new_venue(7, kind=places_pb2.VENUE_KIND_CINEMA, brand_id="brd_a"), new_venue(30)) == (1, 1)
    names: list[str] = []
    page = PageRequest(first=10)
    while True:
        answer = await own.ListVenues(places_pb2.ListVenuesRequest(district_id=DISTRICT, page=page))
        names += [item.name for item in answer.venues]
        if not answer.page.has_next_page:
            break
        page = PageRequest(first=10, after=answer.page.end_cursor)
    assert names == [f"店{n:03}" for n in range(31)]
    cinemas = await own.ListVenues(places_pb2.ListVenuesRequest(district_id=DISTRICT, kinds=[places_pb2.VENUE_KIND_CINEMA]))
    assert [(item.id, item.brand_id) for item in cinemas.venues] == [("ven_7", "brd_a")]
    for wrong, field in (
        ([], "venues"),
        ([new_venue(1), new_venue(1)], "venues"),
        ([new_venue(1), new_venue(2, id="")], "venues[1].id"),
        ([new_venue(1, id="shop")], "venues[0].id"),
        ([new_venue(1), new_venue(2), new_venue(3, kind=0)], "venues[2].kind"),
    ):
        with pytest.raises(Invalid) as refused:
            await import_venues(*wrong)
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
"""Digits, Chinese names by pinyin, then others, with equal names and names that only compare as equal.

拾 has one position for all its readings: the last of shì.
"""


async def test_names_are_listed_by_pinyin_over_all_pages(world: World, district: ServiceHarness) -> None:
    names = random.sample(IN_PINYIN, len(IN_PINYIN))
    own = world.places(district_operator(DISTRICT))
    await own.ImportVenues(
        places_pb2.ImportVenuesRequest(
            request_id=new_id(),
            district_id=DISTRICT,
            venues=[new_venue(n, name=name, id=f"ven_{'aA_-'[n % 4]}{n}") for n, name in enumerate(names)],
        )
    )
    await district.database["districts"].delete_many({})
    for n, name in enumerate(names):
        await world.create_district(f"dst_{'aA_-'[n % 4]}{n}", name)

    async def list_all(ask: Callable[[PageRequest], Awaitable[Any]], first: int) -> list[tuple[str, str]]:
        found, after = [], ""
        while True:
            answer = await ask(PageRequest(first=first, after=after))
            found += [(item.id, item.name) for item in getattr(answer, "venues", None) or answer.districts]
            if not answer.page.has_next_page:
                return found
            after = answer.page.end_cursor

    def venues(page: PageRequest) -> Awaitable[Any]:
        return own.ListVenues(places_pb2.ListVenuesRequest(district_id=DISTRICT, page=page))

    def districts(page: PageRequest) -> Awaitable[Any]:
        return own.ListDistricts(places_pb2.ListDistrictsRequest(page=page))

    for ask in (venues, districts):
        complete = await list_all(ask, 100)
        assert [name.casefold() for name in map(compose, complete)] == [compose(("", name)).casefold() for name in IN_PINYIN]
        assert len(set(complete)) == len(IN_PINYIN)
        for first in (1, 2, 3, 7):
            assert await list_all(ask, first) == complete


async def test_batch_lists_of_venues_equal_single_lists(world: World, district: ServiceHarness) -> None:
    await world.create_district("dst_other")
    await world.create_district("dst_empty")
    for district_id, numbers in ((DISTRICT, range(4)), ("dst_other", range(4, 6))):
        kinds = (places_pb2.VENUE_KIND_STORE, places_pb2.VENUE_KIND_CINEMA)
        venues = [new_venue(n, name=IN_PINYIN[-n], kind=kinds[n % 2]) for n in numbers]
        request = places_pb2.ImportVenuesRequest(request_id=new_id(), district_id=district_id, venues=venues)
        await world.places(district_operator(district_id)).ImportVenues(request)
    anna, rpc, keys = (
        world.places(*consumer_grants("con_anna")),
        "PlaceService.BatchListVenues",
        ["dst_other", DISTRICT, "dst_empty", "dst_none"],
    )
    assert await assert_batch_equals_lists(anna, rpc, "district_id", keys) == {DISTRICT: 4, "dst_other": 2}
    assert await count_documents_read(district.database, "venues", fetch_first_pages(anna, rpc, "district_id", keys, 1)) == 2 + 2
    kinds = [places_pb2.VENUE_KIND_CINEMA]
    assert await assert_batch_equals_lists(anna, rpc, "district_id", keys, kinds=kinds) == {DISTRICT: 2, "dst_other": 1}


def compose(item: tuple[str, str]) -> str:
    return unicodedata.normalize("NFC", item[1])


async def test_repeated_entry_returns_the_open_visit(world: World, district: ServiceHarness) -> None:
    first, *again = await asyncio.gather(*(world.enter("con_anna", request_id=f"r{n % 8}") for n in range(16)))
    assert all(visit == first for visit in again)
    assert first.state == places_pb2.VISIT_STATE_OPEN
    (event,) = await district.published_events()
    assert (event.visit_started.visit_id, event.visit_started.consumer_id) == (first.id, "con_anna")
    other = await world.enter("con_ben")
    assert other.id != first.id


async def test_leaving_ends_the_visit_once(world: World, district: ServiceHarness) -> None:
    visit = await world.enter("con_anna")
    left = await world.leave(visit)
    assert left.state == places_pb2.VISIT_STATE_LEFT
    assert left.left_at.ToDatetime() >= left.entered_at.ToDatetime()
    assert await world.leave(visit) == left
    second = await world.enter("con_anna")
    assert second.id != visit.id
    events = sorted(await district.published_events(), key=lambda event: event.at.ToDatetime())
    assert [event.WhichOneof("body") for event in events] == ["visit_started", "visit_left", "visit_started"]
    assert (events[1].visit_left.visit_id, events[1].visit_left.district_id) == (visit.id, visit.district_id)


async def test_visit_events_have_the_entering_consumer_id(world: World, district: ServiceHarness) -> None:
    """Subscribers know links too; after an unlink each consumer id keeps its visits."""
    await link(district, "con_anna", "con_card")
    visit = await world.enter("con_card")
    assert await world.enter("con_anna") == visit
    await world.leave(visit)
    started, left = sorted(await district.published_events(), key=lambda event: event.at.ToDatetime())
    assert (started.key, started.visit_started.consumer_id) == ("con_card", "con_card")
    assert (left.key, left.visit_left.consumer_id, left.visit_left.day) == ("con_card", "con_card", visit.day)


async def test_visit_day_begins_at_local_midnight(world: World) -> None:
    world.set_clock(datetime(2026, 11, 22, 15, 59, tzinfo=UTC))
    evening = await world.enter("con_anna")
    world.advance_clock(timedelta(minutes=2))
    morning = await world.enter("con_anna")
    assert (evening.day, morning.day) == ("2026-11-22", "2026-11-23")
    assert evening.id != morning.id


async def test_position_outside_is_refused_and_never_stored(world: World, district: ServiceHarness) -> None:
    with pytest.raises(Conflict) as refused:
        await world.enter("con_anna", position=Point(longitude=116.5, latitude=39.9))
    assert refused.value.reason == "OUTSIDE_DISTRICT"
    await world.enter("con_anna", position=Point(longitude=116.456, latitude=39.934))
    document = await district.database["visits"].find_one()
    assert "position" not in document


async def test_visits_are_visible_to_consumer_and_district(world: World) -> None:
    await world.create_district("dst_other")
    visit = await world.enter("con_anna")
    request = places_pb2.GetVisitRequest(id=visit.id)
    for grants in (consumer_grants("con_anna"), (district_operator(DISTRICT),)):
        assert (await world.places(*grants).GetVisit(request)).visit == visit
    for grants in (consumer_grants("con_ben"), (district_operator("dst_other"),)):
        with pytest.raises(NotFound) as refused:
            await world.places(*grants).GetVisit(request)
        assert refused.value.reason == "VISIT_NOT_FOUND"
        assert not (await world.places(*grants).BatchGetVisits(places_pb2.BatchGetVisitsRequest(ids=[visit.id]))).visits
    with pytest.raises(NotFound):
        await world.places(*consumer_grants("con_ben")).LeaveDistrict(
            places_pb2.LeaveDistrictRequest(request_id=new_id(), visit_id=visit.id)
        )
    with pytest.raises(Denied):
        await world.places(*consumer_grants("con_ben")).EnterDistrict(
            places_pb2.EnterDistrictRequest(request_id=new_id(), consumer_id="con_anna", district_id=DISTRICT, touchpoint=3)
        )
    with pytest.raises(Invalid):
        await world.places(*consumer_grants("con_anna")).EnterDistrict(
            places_pb2.EnterDistrictRequest(request_id=new_id(), consumer_id="con_anna", district_id=DISTRICT)
        )


async def test_frequent_queries_use_and_sort_by_index(world: World, district: ServiceHarness) -> None:
    visits, venues = district.database["visits"], district.database["venues"]
    assert await list_plan_stages(visits.find({"open_key": "con_anna|dst_sanlitun|2026-11-22"})) == "FETCH IXSCAN"
    assert await list_plan_stages(venues.find({"store_id": "str_here"}, {"_id": 0, "district_id": 1})) == "PROJECTION_COVERED IXSCAN"
    later = pagination.filter_after([*BY_NAME, ("_id", 1)], ["北京", "ven_1"])
    for collection, query in (
        (venues, {"district_id": DISTRICT}),
        (venues, {"$and": [{"district_id": DISTRICT}, later]}),
        (district.database["districts"], {}),
        (district.database["districts"], later),
    ):
        plan = await list_plan_stages(collection.find(query).sort([*BY_NAME, ("_id", 1)]).collation(IN_CHINESE))
        assert "IXSCAN" in plan and not {"COLLSCAN", "SORT"} & set(plan.split()), plan
