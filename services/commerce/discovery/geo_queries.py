"""Geo queries: aggregation pipelines for the nearest stores and for the stock of some of them.

They go store by store, so that a store that cannot serve costs nothing, however much matching stock it has.
"""

from collections.abc import Sequence

from services.commerce.stock.repository import STOCK
from services.commerce.stock.rules import Point
from services.kit.mongo.client import Document


def stores_pipeline(near: Point, radius_metres: int, *, limit: int) -> list[Document]:
    """Returns the pipeline over the stores for the nearest active ones that ever open. `metres` has the distance of each."""
    return [
        _geo_near_stage(near, radius_metres, {"active": True, "$expr": {"$ne": ["$opens_minute", "$closes_minute"]}}),
        {"$limit": limit},
    ]


def stock_pipeline(
    near: Point, radius_metres: int, store_ids: Sequence[str], variant_ids: Sequence[str], *, available: bool, limit: int
) -> list[Document]:
    """Returns the pipeline over the stores for the stock of these variants in the nearest of these stores.

    With `available` it finds stock that can be promised, otherwise stock that is entirely held.
    """
    left = {"$subtract": ["$on_hand", {"$add": ["$reserved", "$safety"]}]}
    held = {"$and": [{"$lte": [left, 0]}, {"$gt": [{"$subtract": ["$on_hand", "$safety"]}, 0]}]}
    query = {"variant_id": {"$in": list(variant_ids)}, "on_hand": {"$gt": 0}, "$expr": {"$gt": [left, 0]} if available else held}
    stock = [{"$match": query}, {"$limit": limit}]
    return [
        _geo_near_stage(near, radius_metres, {"active": True, "_id": {"$in": list(store_ids)}}),
        {"$project": {"_id": 1}},
        {"$lookup": {"from": STOCK, "localField": "_id", "foreignField": "store_id", "pipeline": stock, "as": "stock"}},
        {"$unwind": "$stock"},
        {"$replaceRoot": {"newRoot": "$stock"}},
        {"$limit": limit},
    ]


def _geo_near_stage(near: Point, radius_metres: int, query: Document) -> Document:
    point = {"type": "Point", "coordinates": [near.longitude, near.latitude]}
    return {"$geoNear": {"near": point, "key": "position", "distanceField": "metres", "maxDistance": radius_metres, "query": query}}
