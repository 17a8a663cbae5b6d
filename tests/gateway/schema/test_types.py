"""Views read messages as the graph shows them; declarations that cannot be met are refused when they are made."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from graphql import GraphQLError
from hypothesis import given
from hypothesis import strategies as st

from gateway.graph import common
from gateway.graph.commerce.orders import OrdersOf, WatchedOrder
from gateway.schema import descriptions
from gateway.schema.references import Batch, edge
from gateway.schema.registry import wanted
from gateway.schema.scalars import Long
from gateway.schema.subscription_fields import follow
from gateway.schema.types import NODES, view
from quanyu.commerce.v1 import catalog_pb2, orders_pb2
from quanyu.common.v1 import money_pb2, touch_pb2
from quanyu.member.v1 import identity_pb2
from quanyu.organization.v1 import chart_pb2, targets_pb2, tasks_pb2
from services.kit.errors import Invalid
from tests.gateway.graph import CORE, TYPES, files


def read(message: Any, name: str) -> Any:
    """A field of a message as the view named like it shows it, serialised."""
    type_: Any = CORE.type_map[message.DESCRIPTOR.name]
    field = type_.fields[name]
    value = field.resolve(message, None)
    leaf = getattr(field.type, "of_type", field.type)
    return leaf.serialize(value) if value is not None and hasattr(leaf, "serialize") else value


def test_what_is_not_set_is_null_and_no_object_of_zeros() -> None:
    order = orders_pb2.Order(id="ord_1")
    assert read(order, "total") is None
    assert read(order, "paidAt") is None
    assert read(order, "scenario") is None
    assert read(order, "lines") == []
    assert read(targets_pb2.Attainment(), "onlineRatio") is None
    assert read(targets_pb2.Attainment(online_ratio=0.0), "onlineRatio") == 0.0
    assert read(chart_pb2.Staff(), "title") is None


def test_a_zero_that_is_set_stays_a_zero() -> None:
    order = orders_pb2.Order(total=money_pb2.Money(currency="CNY"))
    assert read(read(order, "total"), "amount") == "0.00"
    assert read(targets_pb2.Figures(), "orders") == 0


def test_enums_go_by_name_without_their_prefix() -> None:
    assert read(orders_pb2.Order(state=orders_pb2.ORDER_STATE_PAID), "state") == "PAID"
    assert read(orders_pb2.Order(touchpoint=touch_pb2.TOUCHPOINT_GUIDE_CHAT), "touchpoint") == "GUIDE_CHAT"
    values: Any = CORE.type_map["TaskState"]
    assert list(values.values) == ["OPEN", "ACKNOWLEDGED", "DONE", "WITHDRAWN"]
    with pytest.raises(GraphQLError):
        read(orders_pb2.Order(state=99), "state")  # type: ignore[arg-type]


def test_times_are_utc_and_maps_are_lists_of_attributes() -> None:
    task = tasks_pb2.Task()
    task.due_at.FromDatetime(datetime(2018, 11, 20, 13, 40, 0, 250_000, tzinfo=UTC))
    assert read(task, "dueAt") == "2018-11-20T13:40:00.250Z"
    sizes = read(identity_pb2.Consumer(sizes={"shoe": "41", "shirt": "40"}), "sizes")
    assert [(each.name, each.value) for each in sizes] == [("shirt", "40"), ("shoe", "41")]


@given(st.integers(-(2**62), 2**62))
def test_sixty_four_bits_pass_whole(number: int) -> None:
    assert read(targets_pb2.Figures(items=number), "items") == number


@given(st.integers(-(10**15), 10**15), st.sampled_from(["CNY", "JPY", "KWD", "USD"]))
def test_money_is_shown_and_taken_to_the_minor_unit(minor: int, currency: str) -> None:
    shown = common.amount(money_pb2.Money(minor=minor, currency=currency))
    assert "E" not in shown
    assert common.minor(Decimal(shown), currency) == minor


def test_more_digits_than_the_currency_has_are_refused() -> None:
    with pytest.raises(Invalid):
        common.minor(Decimal("1.234"), "CNY")
    with pytest.raises(Invalid):
        common.minor(Decimal("0.1"), "JPY")


@pytest.mark.parametrize("given", ["12.30\n", " 12.30", "１２.30", "١٢", "1e2", "+1", ".5", "5.", "NaN", "", 12, 12.5, None])
def test_a_decimal_is_a_text_of_plain_digits(given: Any) -> None:
    parse = CORE.type_map["Decimal"].parse_value  # type: ignore[attr-defined]
    assert parse("-12.30") == Decimal("-12.30")
    with pytest.raises(GraphQLError, match=r'a text like "12\.30"'):
        parse(given)


def test_a_view_tells_its_own_messages_from_others() -> None:
    text: Any = CORE.type_map["Text"]
    assert text.is_type_of(catalog_pb2.Text(), None)
    assert text.is_type_of(chart_pb2.Name(), None)
    assert not text.is_type_of(chart_pb2.Store(), None)


def test_descriptions_come_from_the_protos() -> None:
    task: Any = CORE.type_map["Task"]
    assert task.fields["dueAt"].description == "24 hours after the shopper left. Leaving again on the same day does not extend it."
    assert "`neededBy`" in (descriptions.of("quanyu.commerce.v1.DiscoveryService.SearchPromises") or "")


def test_descriptions_speak_of_the_graph() -> None:
    """Of its fields, values and operations, not of the wire's; and a value that clients compare with is as they get it."""
    described = descriptions.of
    assert "as `order` shows them" in (described("quanyu.commerce.v1.OrderService.ListOrders") or "")
    assert "like `linkConsumers`" in (described("quanyu.member.v1.IdentityService.UnlinkConsumers") or "")
    assert described("quanyu.commerce.v1.PayOrderRequest.sandbox_token") == "With SANDBOX: `approve` pays; all other values are declined."
    assert described("quanyu.member.v1.Transition.from_stage") == "The previous stage; null for the first change."
    assert '"needed_soon"' in (described("quanyu.commerce.v1.ScenarioBasis.rule") or "")
    assert '"prd_shirt" is sold by "ofr_shirt"' in (described("quanyu.commerce.v1.NewProduct.product_id") or "")


def test_comments_of_the_protos_use_graph_names() -> None:
    """A field by its JSON name, an enum value without its prefix, an rpc by its field where the graph has one."""
    labels = {value.name for file in files() for enum in file.enum_types_by_name.values() for value in enum.values}
    fields = {name for type_ in TYPES.values() for name in getattr(type_, "fields", ())}
    methods = [method.name for file in files() for service in file.services_by_name.values() for method in service.methods]
    shown = {name for name in methods if _field_of(name) in fields}
    foreign = {
        name: words
        for name, text in descriptions._comments().items()
        if (words := set(re.findall(r"`[a-z]+(?:_[a-z]+)+`", text)) | set(re.findall(r"\w+", text)) & (labels | shown))
    }
    assert foreign == {}


def _field_of(rpc: str) -> str:
    noun = re.sub(r"^(Get|List|Search)(?=[A-Z])", "", rpc)
    return noun[0].lower() + noun[1:]


@pytest.mark.parametrize("edge", ["Brand.orders", "Brand.coupons", "Consumer.relations", "Staff.outreaches", "Store.holds", "Brand.offers"])
def test_edge_description_omits_what_its_source_names(edge: str) -> None:
    type_, field = edge.split(".")
    graph: Any = CORE.type_map
    said = graph[type_].fields[field].description
    assert said
    assert not re.search(r"exactly one|is named, else", said)


def test_a_look_up_says_that_it_is_null_where_nothing_is_found() -> None:
    query: Any = CORE.query_type
    for field in ("scorecard", "relation"):
        assert query.fields[field].description.endswith(" Here it is null where nothing is found.")
    assert "null" not in query.fields["offers"].description


def test_ids_are_told_by_their_prefix() -> None:
    assert {NODES["brd_"].name, NODES["rtl_"].name, NODES["ord_"].name} == {"Brand", "Order"}
    assert all(len(prefix) == 4 and prefix.endswith("_") for prefix in NODES)


def declare(annotation: str, name: str = "items", field: Any = None) -> None:
    members = {"__annotations__": {name: annotation}} | ({name: field} if field is not None else {})
    view(targets_pb2.Figures)(type("Wrong", (), members))


def test_a_declaration_the_message_cannot_meet_is_refused() -> None:
    with pytest.raises(TypeError, match="may be one of Long"):
        declare("int")
    with pytest.raises(TypeError, match="no such field"):
        declare("Long", "pieces")
    with pytest.raises(TypeError, match="declared as many"):
        declare("list[Long]")
    with pytest.raises(TypeError, match="must be nullable"):
        declare("Brand", "brand", edge(by="items", through=Batch(chart_pb2.BatchGetBrandsRequest)))
    with pytest.raises(TypeError, match="has no field brand_id"):
        declare("Brand | None", "brand", edge(by="brand_id", through=Batch(chart_pb2.BatchGetBrandsRequest)))


def test_a_subscription_follows_a_stream_that_goes_by_cursors() -> None:
    with pytest.raises(TypeError, match="never null"):
        declare("OrderEvent | None", "changed", follow(orders_pb2.WatchOrderRequest, arguments=WatchedOrder))
    with pytest.raises(TypeError, match="streaming rpc"):
        declare("OrderConnection", "changed", follow(orders_pb2.ListOrdersRequest, arguments=OrdersOf))
    with pytest.raises(TypeError, match="no form of"):
        follow(orders_pb2.WatchOrderRequest, arguments=OrdersOf)


@pytest.mark.parametrize("text", ["dict[str, int]", "list[list[int]]", "A | B", "", "list[A", Long])
def test_annotations_have_four_shapes(text: object) -> None:
    with pytest.raises(TypeError):
        wanted(text)


def test_the_four_shapes() -> None:
    assert [wanted(text).nullable for text in ("A", "A | None", "list[A]", "list[A | None]", "list[A] | None")] == [
        False,
        True,
        False,
        False,
        True,
    ]
