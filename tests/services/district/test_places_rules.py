"""Place rules: geofences and visits."""

from datetime import UTC, date, datetime, timedelta
from math import cos, pi, radians, sin

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quanyu.district.v1 import places_pb2
from services.district.places import rules
from services.district.places.geofence import Geofence, Point, contains, describe_fault, distance_metres
from services.kit.enums import Touchpoint
from services.kit.errors import Conflict, Invalid
from services.kit.mongo.codec import request_fields, to_struct

SANLITUN = Point(116.4551, 39.9341)
AT = datetime(2026, 11, 22, 13, 40, tzinfo=UTC)


def move_point(center: Point, metres: float, angle: float) -> Point:
    """Returns the point at a distance from `center` in a direction (radians, 0 is east)."""
    north, east = metres * sin(angle), metres * cos(angle)
    return Point(center.longitude + east / 111_195 / cos(radians(center.latitude)), center.latitude + north / 111_195)


centers = st.builds(Point, st.floats(-179, 179), st.floats(-70, 70))
angles = st.floats(0, 2 * pi)


@st.composite
def stars(draw: st.DrawFn) -> tuple[Point, list[float], list[Point]]:
    """Draws a star-shaped polygon, which is always simple: its center, the corners' distances and the corners."""
    center = draw(centers)
    distances = draw(st.lists(st.floats(100, 3_000), min_size=5, max_size=40))
    return center, distances, [move_point(center, metres, 2 * pi * index / len(distances)) for index, metres in enumerate(distances)]


@given(stars())
def test_star_polygon_is_valid_and_contains_inner_points(star: tuple[Point, list[float], list[Point]]) -> None:
    center, distances, corners = star
    fence = Geofence(corners=tuple(corners))
    assert describe_fault(fence, center) == ""
    assert contains(fence, center, center)
    for index, metres in enumerate(distances):
        angle = 2 * pi * index / len(distances)
        assert contains(fence, center, move_point(center, metres * 0.99, angle))
        assert not contains(fence, center, move_point(center, metres * 1.01, angle))


@given(stars(), st.integers(0, 40), st.booleans(), st.floats(0, 4_000), angles)
def test_polygon_start_and_direction_do_not_matter(
    star: tuple[Point, list[float], list[Point]], start: int, backwards: bool, metres: float, angle: float
) -> None:
    center, _, corners = star
    start %= len(corners)
    turned = corners[start:] + corners[:start]
    point = move_point(center, metres, angle)
    one, other = Geofence(tuple(corners)), Geofence(tuple(reversed(turned) if backwards else turned))
    assert describe_fault(other, center) == ""
    assert contains(one, center, point) == contains(other, center, point)


@given(centers, st.integers(50, 20_000), st.floats(0, 30_000), angles)
def test_circle_contains_points_within_its_radius(center: Point, radius: int, metres: float, angle: float) -> None:
    point = move_point(center, metres, angle)
    distance = distance_metres(center, point)
    assume(abs(distance - radius) > 1e-6)
    assert contains(Geofence(radius_metres=radius), center, point) == (distance < radius)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([(0, 1), (1, -1), (-1, -1), (1, 1)], "cross or touch"),
        ([(-1, -1), (1, -1), (1, -1), (0, 1)], "longer than 0"),
        ([(-1, -1), (1, -1)], "at least 3"),
        ([(-1, 0), (1, 0), (0, 0)], "cross or touch"),
        ([(1, 1), (2, 1), (2, 2), (1, 2)], "outside of the polygon"),
        ([(-200, -200), (200, -200), (0, 200)], "at most 20000 metres"),
    ],
)
def test_bad_geofence_is_refused_with_a_message(shape: list[tuple[float, float]], message: str) -> None:
    corners = tuple(Point(SANLITUN.longitude + x / 300, SANLITUN.latitude + y / 300) for x, y in shape)
    assert message in describe_fault(Geofence(corners), SANLITUN)
    with pytest.raises(Invalid) as refused:
        rules.check_district(district(Geofence(corners)))
    assert refused.value.reason == "GEOFENCE_INVALID"


def test_geofence_is_either_circle_or_polygon() -> None:
    assert "radiusMetres" in describe_fault(Geofence(), SANLITUN)
    assert "Give only one" in describe_fault(Geofence((SANLITUN, SANLITUN, SANLITUN), 500), SANLITUN)


def district(fence: Geofence) -> rules.District:
    return rules.District(id="dst_a", name="三里屯", position=SANLITUN, zone="Asia/Shanghai", geofence=fence)


def test_position_outside_is_refused_but_optional() -> None:
    sanlitun = district(Geofence(radius_metres=800))
    rules.check_position(sanlitun, None)
    rules.check_position(sanlitun, move_point(SANLITUN, 799, 1))
    with pytest.raises(Conflict) as refused:
        rules.check_position(sanlitun, move_point(SANLITUN, 802, 1))
    assert refused.value.reason == "OUTSIDE_DISTRICT"


@given(st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=5))
def test_repeated_leave_changes_nothing(seconds: list[int]) -> None:
    visit = rules.enter("vis_1", "con_a", "con_person", district(Geofence(radius_metres=800)), date(2026, 11, 22), Touchpoint.APP, AT)
    published: list[rules.VisitLeft] = []
    states = []
    for offset in seconds:
        visit, events = rules.leave(visit, at=AT + timedelta(seconds=offset), unspent=())
        published += events
        states.append(visit)
    assert published == [rules.VisitLeft(visit_id="vis_1", consumer_id="con_a", district_id="dst_a", day="2026-11-22")]
    assert len(set(states)) == 1
    assert visit.open_key is None
    assert visit.left_at is not None
    assert visit.left_at >= visit.entered_at


def test_entry_without_touchpoint_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        to_struct(request_fields(places_pb2.EnterDistrictRequest(consumer_id="con_a", district_id="dst_a")), rules.Entry)
    assert refused.value.metadata["field"] == "touchpoint"
