"""Is a point within a district's border? Plane geometry on degrees scaled at the district: exact enough for borders below 20 km."""

from collections.abc import Sequence
from itertools import combinations
from math import asin, cos, hypot, radians, sin, sqrt
from typing import Annotated

from msgspec import Meta, Struct

EARTH_METRES = 6_371_008.8
SIDE_METRES_MAX = 20_000
CORNERS_MIN = 3

Plane = tuple[float, float]


class Point(Struct, frozen=True):
    """WGS 84 degrees; the order of the fields is MongoDB's."""

    longitude: Annotated[float, Meta(ge=-180, le=180)] = 0.0
    latitude: Annotated[float, Meta(ge=-90, le=90)] = 0.0


class Geofence(Struct, frozen=True):
    """Corners of a simple polygon, or a radius around the district's position; never both."""

    corners: Annotated[tuple[Point, ...], Meta(max_length=64)] = ()
    radius_metres: Annotated[int, Meta(ge=0, le=20_000)] = 0


RADIUS_METRES_MIN = 50


def distance_metres(one: Point, other: Point) -> float:
    """The way over the sphere (haversine)."""
    north = sin(radians(other.latitude - one.latitude) / 2) ** 2
    east = sin(radians(other.longitude - one.longitude) / 2) ** 2
    return 2 * EARTH_METRES * asin(min(1.0, sqrt(north + cos(radians(one.latitude)) * cos(radians(other.latitude)) * east)))


def holds(fence: Geofence, middle: Point, point: Point) -> bool:
    """Whether `point` lies within the border of a district around `middle`; on a circle's line counts as within."""
    if not fence.corners:
        return distance_metres(middle, point) <= fence.radius_metres
    return _inside([_flat(middle, corner) for corner in fence.corners], _flat(middle, point))


def fault(fence: Geofence, middle: Point) -> str:
    """What is wrong with a border, for a person; empty when it is a circle or a simple polygon around `middle`."""
    if not fence.corners:
        return "" if fence.radius_metres >= RADIUS_METRES_MIN else f"give corners, or a radius of at least {RADIUS_METRES_MIN} metres"
    if fence.radius_metres:
        return "give corners or a radius, not both"
    if len(fence.corners) < CORNERS_MIN:
        return f"a polygon has at least {CORNERS_MIN} corners"
    corners = [_flat(middle, corner) for corner in fence.corners]
    if any(not 0 < hypot(b[0] - a[0], b[1] - a[1]) <= SIDE_METRES_MAX for a, b in _sides(corners)):
        return f"each side of the polygon is at most {SIDE_METRES_MAX} metres long, and no corner comes twice in a row"
    if not _simple(corners):
        return "the sides of the polygon meet only at its corners"
    return "" if _inside(corners, (0.0, 0.0)) else "the polygon surrounds the district's position"


def _flat(middle: Point, point: Point) -> Plane:
    """Metres east and north of `middle`."""
    east = (point.longitude - middle.longitude + 180) % 360 - 180
    return radians(east) * EARTH_METRES * cos(radians(middle.latitude)), radians(point.latitude - middle.latitude) * EARTH_METRES


def _sides(corners: Sequence[Plane]) -> list[tuple[Plane, Plane]]:
    return list(zip(corners, [*corners[1:], corners[0]], strict=True))


def _inside(corners: Sequence[Plane], point: Plane) -> bool:
    """Even-odd rule: a ray to the east crosses the border an odd number of times."""
    x, y = point
    within = False
    for (ax, ay), (bx, by) in _sides(corners):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            within = not within
    return within


def _turn(a: Plane, b: Plane, c: Plane) -> float:
    """Positive when a, b, c turn left, negative when right, 0 on a line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _between(a: Plane, b: Plane, c: Plane) -> bool:
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])


def _meet(a: Plane, b: Plane, c: Plane, d: Plane) -> bool:
    """Whether the segments ab and cd have a point in common."""
    turns = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(turn == 0 and _between(*end) for turn, end in zip(turns, ends, strict=True))


def _simple(corners: Sequence[Plane]) -> bool:
    """No two sides meet but neighbours at their corner; a neighbour that runs back over its side meets it too."""
    sides = _sides(corners)
    last = len(sides) - 1
    for (i, (a, b)), (j, (c, d)) in combinations(enumerate(sides), 2):
        if j == i + 1 or (i == 0 and j == last):
            first, shared, second = (a, b, d) if j == i + 1 else (c, a, b)
            backwards = (first[0] - shared[0]) * (second[0] - shared[0]) + (first[1] - shared[1]) * (second[1] - shared[1]) > 0
            if _turn(first, shared, second) == 0 and backwards:
                return False
        elif _meet(a, b, c, d):
            return False
    return True
