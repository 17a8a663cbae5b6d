"""How the nearest are looked up: the stores around a place, and what stands in some of them.

Store by store: so a store that cannot serve costs nothing, however much of what is asked for lies there.
"""

from collections.abc import Sequence

from services.commerce.stock.repository import STOCK
from services.commerce.stock.rules import Point
from services.kit.mongo.client import Document


def stores(near: Point, metres: int, *, limit: int) -> list[Document]:
    """The pipeline over the stores for the nearest that are ever open; `metres` says how far each is."""
    return [_nearest(near, metres, {"active": True, "$expr": {"$ne": ["$opens_minute", "$closes_minute"]}}), {"$limit": limit}]


def rows(near: Point, metres: int, store_ids: Sequence[str], variant_ids: Sequence[str], *, free: bool, limit: int) -> list[Document]:
    """The pipeline over the stores for these variants in the nearest of these stores: what is available there, or what is all held."""
    left = {"$subtract": ["$on_hand", {"$add": ["$reserved", "$safety"]}]}
    held = {"$and": [{"$lte": [left, 0]}, {"$gt": [{"$subtract": ["$on_hand", "$safety"]}, 0]}]}
    wanted = {"variant_id": {"$in": list(variant_ids)}, "on_hand": {"$gt": 0}, "$expr": {"$gt": [left, 0]} if free else held}
    shelf = [{"$match": wanted}, {"$limit": limit}]
    return [
        _nearest(near, metres, {"active": True, "_id": {"$in": list(store_ids)}}),
        {"$project": {"_id": 1}},
        {"$lookup": {"from": STOCK, "localField": "_id", "foreignField": "store_id", "pipeline": shelf, "as": "row"}},
        {"$unwind": "$row"},
        {"$replaceRoot": {"newRoot": "$row"}},
        {"$limit": limit},
    ]


def _nearest(near: Point, metres: int, wanted: Document) -> Document:
    place = {"type": "Point", "coordinates": [near.longitude, near.latitude]}
    return {"$geoNear": {"near": place, "key": "position", "distanceField": "metres", "maxDistance": metres, "query": wanted}}
