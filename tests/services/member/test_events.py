"""The events that member handles, and the indexes of its frequent queries."""

import pytest

from quanyu.events.v1 import events_pb2
from services.kit.errors import Denied
from services.kit.transactions.outbox import route_of
from services.member.relation.rules import relation_id

QUERIES = {
    "consumers": [{"_id": {"$in": ["con_1"]}}, {"person_id": {"$in": ["con_1"]}}],
    "identities": [{"hash": {"$in": ["x"]}, "stands": True}, {"consumer_id": {"$in": ["con_1"]}}],
    "links": [{"$or": [{"consumer_id": {"$in": ["con_1"]}}, {"linked_consumer_id": {"$in": ["con_1"]}}]}],
    "consents": [{"consumer_id": {"$in": ["con_1"]}, "brand_id": {"$in": ["brd_1"]}, "purpose": "PURPOSE_OUTREACH"}],
    "interactions": [{"consumer_id": {"$in": ["con_1"]}, "brand_id": {"$in": ["brd_1"]}}],
    "relations": [{"_id": {"$in": [relation_id("con_1", "brd_1")]}}, {"consumer_id": "con_1"}],
    "transitions": [{"consumer_id": "con_1", "brand_id": "brd_1"}],
    "bindings": [{"consumer_id": {"$in": ["con_1"]}, "active": True}],
    "outreaches": [{"consumer_id": {"$in": ["con_1"]}, "unread": True}],
}
PAGES = {
    "consent_changes": [({"consumer_id": {"$in": ["con_1", "con_2"]}}, [("at", -1), ("_id", 1)])],
    "interactions": [
        ({"consumer_id": {"$in": ["con_1", "con_2"]}}, [("at", -1), ("_id", 1)]),
        ({"consumer_id": {"$in": ["con_1", "con_2"]}, "brand_id": "brd_1"}, [("at", -1), ("_id", 1)]),
    ],
    "relations": [({"consumer_id": "con_1"}, [("last_at", -1), ("_id", 1)]), ({"brand_id": "brd_1"}, [("last_at", -1), ("_id", 1)])],
    "transitions": [({"consumer_id": "con_1", "brand_id": "brd_1"}, [("number", -1), ("_id", 1)])],
    "bindings": [({"staff_id": "stf_1", "active": True}, [("bound_at", -1), ("_id", 1)])],
    "outreaches": [
        ({"consumer_id": {"$in": ["con_1", "con_2"]}}, [("sent_at", -1), ("_id", 1)]),
        ({"staff_id": "stf_1"}, [("sent_at", -1), ("_id", 1)]),
        ({"store_id": "str_1"}, [("sent_at", -1), ("_id", 1)]),
        ({"brand_id": "brd_1"}, [("sent_at", -1), ("_id", 1)]),
    ],
}


def test_every_event_routed_to_member_has_a_handler(member_events):
    body = events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"]
    assert set(member_events) == {field.name for field in body.fields if "member" in route_of(field.name).subscribers}


@pytest.fixture
async def member_events(member):
    return member.definition.events


async def test_service_delivers_only_its_own_events(member):
    def store_changed(source):
        return events_pb2.Event(key="str_1", source=source, store_changed=events_pb2.StoreChanged(store_id="str_1", brand_id="brd_1"))

    for signer in ("commerce", "gateway", "local"):
        with pytest.raises(Denied, match="SOURCE_NOT_YOURS"):
            await member.deliver(store_changed("organization"), source="organization", signed_by=signer)
    with pytest.raises(Denied, match="KIND_NOT_YOURS"):
        await member.deliver(store_changed("commerce"), source="commerce")
    assert await member.database["store_view"].count_documents({}) == 0
    (delivery,) = await member.deliver(store_changed("organization"), source="organization")
    assert delivery.state == events_pb2.DELIVERY_STATE_APPLIED
    assert await member.database["store_view"].count_documents({}) == 1


def list_stages(plan):
    """Returns the names of all stages of a winning plan."""
    found = [plan["stage"]]
    for inner in [plan.get("inputStage"), *plan.get("inputStages", []), *plan.get("shards", [])]:
        found += list_stages(inner) if inner else []
    return found


async def test_frequent_queries_use_and_sort_by_index(member):
    queries = [(name, query, []) for name, found in QUERIES.items() for query in found]
    queries += [(name, query, sort) for name, pages in PAGES.items() for query, sort in pages]
    for name, query, sort in queries:
        cursor = member.database[name].find(query)
        explained = await (cursor.sort(sort) if sort else cursor).explain()
        used = list_stages(explained["queryPlanner"]["winningPlan"])
        assert "COLLSCAN" not in used and "SORT" not in used, (name, query, used)
