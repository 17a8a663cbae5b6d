"""Geofence of a district: a circle or a simple polygon.

The geometry is planar, on metres around the district's position. It is exact enough for borders below 20 km.
"""

from collections.abc import Sequence
from itertools import combinations
from math import asin, cos, hypot, radians, sin, sqrt
from typing import Annotated

from msgspec import Meta, Struct

EARTH_METRES = 6_371_008.8
"""The mean radius of the earth."""
RADIUS_METRES_MIN = 50
"""A circular geofence has at least this radius."""
SIDE_METRES_MAX = 20_000
"""A side of a polygon has at most this length."""
CORNERS_MIN = 3
"""A polygon has at least this many corners."""

Plane = tuple[float, float]
"""Metres east and north of a district's position."""


class Point(Struct, frozen=True):
    """WGS 84 degrees; the order of the fields is MongoDB's."""

    longitude: Annotated[float, Meta(ge=-180, le=180)] = 0.0
    latitude: Annotated[float, Meta(ge=-90, le=90)] = 0.0


class Geofence(Struct, frozen=True):
    """Corners of a simple polygon, or a radius around the district's position; never both."""

    corners: Annotated[tuple[Point, ...], Meta(max_length=64)] = ()
    radius_metres: Annotated[int, Meta(ge=0, le=20_000)] = 0


def distance_metres(one: Point, other: Point) -> float:
    """Returns the distance on the sphere (haversine)."""
    north = sin(radians(other.latitude - one.latitude) / 2) ** 2
    east = sin(radians(other.longitude - one.longitude) / 2) ** 2
    return 2 * EARTH_METRES * asin(min(1.0, sqrt(north + cos(radians(one.latitude)) * cos(radians(other.latitude)) * east)))


def contains(fence: Geofence, center: Point, point: Point) -> bool:
    """True if `point` is within the geofence of a district at `center`; the line of a circle is within."""
    if not fence.corners:
        return distance_metres(center, point) <= fence.radius_metres
    return _is_inside([_project(center, corner) for corner in fence.corners], _project(center, point))


def describe_fault(fence: Geofence, center: Point) -> str:
    """Returns an error message for a bad geofence; an empty text for a circle or a simple polygon around `center`."""
    if not fence.corners:
        return (
            ""
            if fence.radius_metres >= RADIUS_METRES_MIN
            else f"`geofence` is empty. Give `corners`, or a `radiusMetres` of at least {RADIUS_METRES_MIN}."
        )
    if fence.radius_metres:
        return "`geofence` has corners and a radius. Give only one of `corners` and `radiusMetres`."
    if len(fence.corners) < CORNERS_MIN:
        return f"`corners` must contain at least {CORNERS_MIN} points. Add corners."
    corners = [_project(center, corner) for corner in fence.corners]
    if any(not 0 < hypot(b[0] - a[0], b[1] - a[1]) <= SIDE_METRES_MAX for a, b in _sides(corners)):
        return f"Sides must be longer than 0 and at most {SIDE_METRES_MAX} metres long. Move or remove `corners`."
    if not _is_simple(corners):
        return "Sides of the polygon cross or touch. Give the corners in order around the border."
    return "" if _is_inside(corners, (0.0, 0.0)) else "`position` is outside of the polygon. Give a position within `corners`."


def _project(center: Point, point: Point) -> Plane:
    """Returns a point as metres east and north of `center`."""
    east = (point.longitude - center.longitude + 180) % 360 - 180
    return radians(east) * EARTH_METRES * cos(radians(center.latitude)), radians(point.latitude - center.latitude) * EARTH_METRES


def _sides(corners: Sequence[Plane]) -> list[tuple[Plane, Plane]]:
    return list(zip(corners, [*corners[1:], corners[0]], strict=True))


def _is_inside(corners: Sequence[Plane], point: Plane) -> bool:
    """True if a ray from the point to the east crosses the border an odd number of times (even-odd rule)."""
    x, y = point
    is_inside = False
    for (ax, ay), (bx, by) in _sides(corners):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            is_inside = not is_inside
    return is_inside


def _cross_product(a: Plane, b: Plane, c: Plane) -> float:
    """Returns a positive number if a, b, c turn left, a negative one if they turn right, 0 on a line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _is_between(a: Plane, b: Plane, c: Plane) -> bool:
    """True if c, on the line of a and b, lies between them."""
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])


def _intersect(a: Plane, b: Plane, c: Plane, d: Plane) -> bool:
    """True if the segments ab and cd have a common point."""
    turns = _cross_product(a, b, c), _cross_product(a, b, d), _cross_product(c, d, a), _cross_product(c, d, b)
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(turn == 0 and _is_between(*end) for turn, end in zip(turns, ends, strict=True))


def _is_simple(corners: Sequence[Plane]) -> bool:
    """True if no two sides have a common point, except neighbours at their corner.

    A side that runs back over its neighbour makes the polygon not simple.
    """
    sides = _sides(corners)
    last = len(sides) - 1
    for (i, (a, b)), (j, (c, d)) in combinations(enumerate(sides), 2):
        if j == i + 1 or (i == 0 and j == last):
            first, shared, second = (a, b, d) if j == i + 1 else (c, a, b)
            backwards = (first[0] - shared[0]) * (second[0] - shared[0]) + (first[1] - shared[1]) * (second[1] - shared[1]) > 0
            if _cross_product(first, shared, second) == 0 and backwards:
                return False
        elif _intersect(a, b, c, d):
            return False
    return True
