"""Borders of districts and the life of a visit."""

from datetime import UTC, date, datetime, timedelta
from math import cos, pi, radians, sin

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quanyu.district.v1 import places_pb2
from services.district.places import rules
from services.district.places.geofence import Geofence, Point, distance_metres, fault, holds
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Invalid
from services.kit.mongo.codec import as_struct, fields

SANLITUN = Point(116.4551, 39.9341)
AT = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)


def away(middle: Point, metres: float, angle: float) -> Point:
    """The point so far from `middle` in that direction (radians, 0 is east)."""
    north, east = metres * sin(angle), metres * cos(angle)
    return Point(middle.longitude + east / 111_195 / cos(radians(middle.latitude)), middle.latitude + north / 111_195)


middles = st.builds(Point, st.floats(-179, 179), st.floats(-70, 70))
angles = st.floats(0, 2 * pi)


@st.composite
def stars(draw: st.DrawFn) -> tuple[Point, list[float], list[Point]]:
    """A star-shaped polygon around its middle: always simple. Its middle, the corners' distances and the corners."""
    middle = draw(middles)
    distances = draw(st.lists(st.floats(100, 3_000), min_size=5, max_size=40))
    return middle, distances, [away(middle, metres, 2 * pi * index / len(distances)) for index, metres in enumerate(distances)]


@given(stars())
def test_a_star_shaped_polygon_is_sound_and_holds_what_lies_towards_its_corners(star: tuple[Point, list[float], list[Point]]) -> None:
    middle, distances, corners = star
    fence = Geofence(corners=tuple(corners))
    assert fault(fence, middle) == ""
    assert holds(fence, middle, middle)
    for index, metres in enumerate(distances):
        angle = 2 * pi * index / len(distances)
        assert holds(fence, middle, away(middle, metres * 0.99, angle))
        assert not holds(fence, middle, away(middle, metres * 1.01, angle))


@given(stars(), st.integers(0, 40), st.booleans(), st.floats(0, 4_000), angles)
def test_it_does_not_matter_at_which_corner_or_which_way_round_a_border_is_told(
    star: tuple[Point, list[float], list[Point]], start: int, backwards: bool, metres: float, angle: float
) -> None:
    middle, _, corners = star
    start %= len(corners)
    turned = corners[start:] + corners[:start]
    point = away(middle, metres, angle)
    one, other = Geofence(tuple(corners)), Geofence(tuple(reversed(turned) if backwards else turned))
    assert fault(other, middle) == ""
    assert holds(one, middle, point) == holds(other, middle, point)


@given(middles, st.integers(50, 20_000), st.floats(0, 30_000), angles)
def test_a_circle_holds_what_is_nearer_than_its_radius(middle: Point, radius: int, metres: float, angle: float) -> None:
    point = away(middle, metres, angle)
    distance = distance_metres(middle, point)
    assume(abs(distance - radius) > 1e-6)
    assert holds(Geofence(radius_metres=radius), middle, point) == (distance < radius)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ([(0, 1), (1, -1), (-1, -1), (1, 1)], "meet only at its corners"),
        ([(-1, -1), (1, -1), (1, -1), (0, 1)], "twice in a row"),
        ([(-1, -1), (1, -1)], "at least 3"),
        ([(-1, 0), (1, 0), (0, 0)], "meet only at its corners"),
        ([(1, 1), (2, 1), (2, 2), (1, 2)], "surrounds"),
        ([(-200, -200), (200, -200), (0, 200)], "at most 20000 metres"),
    ],
)
def test_a_border_that_is_no_border_is_told_what_is_wrong(shape: list[tuple[float, float]], why: str) -> None:
    corners = tuple(Point(SANLITUN.longitude + x / 300, SANLITUN.latitude + y / 300) for x, y in shape)
    assert why in fault(Geofence(corners), SANLITUN)
    with pytest.raises(Invalid) as refused:
        rules.found(district(Geofence(corners)))
    assert refused.value.reason == "GEOFENCE_INVALID"


def test_a_border_is_either_a_circle_or_a_polygon() -> None:
    assert "radius" in fault(Geofence(), SANLITUN)
    assert "not both" in fault(Geofence((SANLITUN, SANLITUN, SANLITUN), 500), SANLITUN)


def district(fence: Geofence) -> rules.District:
    return rules.District(id="dst_a", name="三里屯", position=SANLITUN, zone="Asia/Shanghai", geofence=fence)


def test_a_position_outside_is_refused_and_none_is_believed() -> None:
    sanlitun = district(Geofence(radius_metres=800))
    rules.check_position(sanlitun, None)
    rules.check_position(sanlitun, away(SANLITUN, 799, 1))
    with pytest.raises(Conflict) as refused:
        rules.check_position(sanlitun, away(SANLITUN, 802, 1))
    assert refused.value.reason == "OUTSIDE_DISTRICT"


@given(st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=5))
def test_leaving_again_changes_and_tells_nothing(seconds: list[int]) -> None:
    visit = rules.enter("vis_1", "con_a", "con_person", district(Geofence(radius_metres=800)), date(2026, 11, 22), Touchpoint.APP, AT)
    told: list[rules.VisitLeft] = []
    states = []
    for moved in seconds:
        visit, events = rules.leave(visit, at=AT + timedelta(seconds=moved), unspent=())
        told += events
        states.append(visit)
    assert told == [rules.VisitLeft(visit_id="vis_1", consumer_id="con_a", district_id="dst_a", day="2026-11-22")]
    assert len(set(states)) == 1
    assert visit.open_key is None
    assert visit.left_at is not None
    assert visit.left_at >= visit.entered_at


def test_entering_without_touchpoint_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        as_struct(fields(places_pb2.EnterDistrictRequest(consumer_id="con_a", district_id="dst_a")), rules.Entering)
    assert refused.value.metadata["field"] == "touchpoint"
