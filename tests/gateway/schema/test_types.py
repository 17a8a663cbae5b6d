"""Object types read messages; scalars and descriptions; a declaration that does not fit its message is refused."""

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
from gateway.schema.batch_loader import BatchLoader
from gateway.schema.references import reference
from gateway.schema.registry import parse_annotation
from gateway.schema.scalars import Long
from gateway.schema.subscription_fields import subscription_field
from gateway.schema.types import NODE_TYPES, object_type
from quanyu.commerce.v1 import catalog_pb2, orders_pb2
from quanyu.common.v1 import money_pb2, touch_pb2
from quanyu.member.v1 import identity_pb2
from quanyu.organization.v1 import chart_pb2, targets_pb2, tasks_pb2
from services.kit.errors import Invalid
from tests.gateway.graph import CORE, TYPES, proto_files


def read(message: Any, name: str) -> Any:
    """Returns a field of a message, serialized by the object type with the name of the message."""
    type_: Any = CORE.type_map[message.DESCRIPTOR.name]
    field = type_.fields[name]
    value = field.resolve(message, None)
    leaf = getattr(field.type, "of_type", field.type)
    return leaf.serialize(value) if value is not None and hasattr(leaf, "serialize") else value


def test_unset_value_is_null() -> None:
    order = orders_pb2.Order(id="ord_1")
    assert read(order, "total") is None
    assert read(order, "paidAt") is None
    assert read(order, "scenario") is None
    assert read(order, "lines") == []
    assert read(targets_pb2.Attainment(), "onlineRatio") is None
    assert read(targets_pb2.Attainment(online_ratio=0.0), "onlineRatio") == 0.0
    assert read(chart_pb2.Staff(), "title") is None


def test_set_zero_remains_zero() -> None:
    order = orders_pb2.Order(total=money_pb2.Money(currency="CNY"))
    assert read(read(order, "total"), "amount") == "0.00"
    assert read(targets_pb2.Figures(), "orders") == 0


def test_enum_value_has_no_prefix() -> None:
    assert read(orders_pb2.Order(state=orders_pb2.ORDER_STATE_PAID), "state") == "PAID"
    assert read(orders_pb2.Order(touchpoint=touch_pb2.TOUCHPOINT_GUIDE_CHAT), "touchpoint") == "GUIDE_CHAT"
    values: Any = CORE.type_map["TaskState"]
    assert list(values.values) == ["OPEN", "ACKNOWLEDGED", "DONE", "WITHDRAWN"]
    with pytest.raises(GraphQLError):
        read(orders_pb2.Order(state=99), "state")  # type: ignore[arg-type]


def test_time_is_utc_and_map_is_attributes() -> None:
    task = tasks_pb2.Task()
    task.due_at.FromDatetime(datetime(2018, 11, 20, 13, 40, 0, 250_000, tzinfo=UTC))
    assert read(task, "dueAt") == "2018-11-20T13:40:00.250Z"
    sizes = read(identity_pb2.Consumer(sizes={"shoe": "41", "shirt": "40"}), "sizes")
    assert [(each.name, each.value) for each in sizes] == [("shirt", "40"), ("shoe", "41")]


@given(st.integers(-(2**62), 2**62))
def test_long_keeps_64_bits(number: int) -> None:
    assert read(targets_pb2.Figures(items=number), "items") == number


@given(st.integers(-(10**15), 10**15), st.sampled_from(["CNY", "JPY", "KWD", "USD"]))
def test_money_round_trip_keeps_minor_units(minor: int, currency: str) -> None:
    shown = common.format_amount(money_pb2.Money(minor=minor, currency=currency))
    assert "E" not in shown
    assert common.parse_amount(Decimal(shown), currency) == minor


def test_amount_with_too_many_decimals_is_refused() -> None:
    with pytest.raises(Invalid):
        common.parse_amount(Decimal("1.234"), "CNY")
    with pytest.raises(Invalid):
        common.parse_amount(Decimal("0.1"), "JPY")


@pytest.mark.parametrize("given", ["12.30\n", " 12.30", "１２.30", "١٢", "1e2", "+1", ".5", "5.", "NaN", "", 12, 12.5, None])
def test_decimal_accepts_plain_digits_only(given: Any) -> None:
    parse = CORE.type_map["Decimal"].parse_value  # type: ignore[attr-defined]
    assert parse("-12.30") == Decimal("-12.30")
    with pytest.raises(GraphQLError, match=r'a string such as "12\.30"'):
        parse(given)


def test_object_type_recognizes_its_messages() -> None:
    text: Any = CORE.type_map["Text"]
    assert text.is_type_of(catalog_pb2.Text(), None)
    assert text.is_type_of(chart_pb2.Name(), None)
    assert not text.is_type_of(chart_pb2.Store(), None)


def test_description_is_the_proto_comment() -> None:
    task: Any = CORE.type_map["Task"]
    assert task.fields["dueAt"].description == "24 hours after the shopper left. Leaving again on the same day does not extend it."
    assert "`neededBy`" in (descriptions.find_comment("quanyu.commerce.v1.DiscoveryService.SearchPromises") or "")


def test_comment_names_fields_and_values_of_graph() -> None:
    """A comment uses GraphQL names, and values in the form that clients receive."""
    find = descriptions.find_comment
    assert "as `order` shows them" in (find("quanyu.commerce.v1.OrderService.ListOrders") or "")
    assert "like `linkConsumers`" in (find("quanyu.member.v1.IdentityService.UnlinkConsumers") or "")
    assert find("quanyu.commerce.v1.PayOrderRequest.sandbox_token") == "With SANDBOX: `approve` pays; all other values are declined."
    assert find("quanyu.member.v1.Transition.from_stage") == "The previous stage; null for the first change."
    assert '"needed_soon"' in (find("quanyu.commerce.v1.ScenarioBasis.rule") or "")
    assert '"prd_shirt" is sold by "ofr_shirt"' in (find("quanyu.commerce.v1.NewProduct.product_id") or "")


def test_proto_comments_use_graph_names() -> None:
    """A field has its JSON name, an enum value no prefix, and an rpc the name of its field in the graph."""
    labels = {value.name for file in proto_files() for enum in file.enum_types_by_name.values() for value in enum.values}
    fields = {name for type_ in TYPES.values() for name in getattr(type_, "fields", ())}
    methods = [method.name for file in proto_files() for service in file.services_by_name.values() for method in service.methods]
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


@pytest.mark.parametrize("name", ["Brand.orders", "Brand.coupons", "Consumer.relations", "Staff.outreaches", "Store.holds", "Brand.offers"])
def test_connection_description_omits_source_conditions(name: str) -> None:
    type_, field = name.split(".")
    graph: Any = CORE.type_map
    description = graph[type_].fields[field].description
    assert description
    assert not re.search(r"exactly one|is named, else", description)


def test_lookup_description_says_when_null() -> None:
    query: Any = CORE.query_type
    for field in ("scorecard", "relation"):
        assert query.fields[field].description.endswith(" Null if it does not exist or you may not see it.")
    assert "Null if" not in query.fields["offers"].description


def test_id_prefix_names_a_node_type() -> None:
    assert {NODE_TYPES["brd_"].name, NODE_TYPES["rtl_"].name, NODE_TYPES["ord_"].name} == {"Brand", "Order"}
    assert all(len(prefix) == 4 and prefix.endswith("_") for prefix in NODE_TYPES)


def declare(annotation: str, name: str = "items", field: Any = None) -> None:
    members = {"__annotations__": {name: annotation}} | ({name: field} if field is not None else {})
    object_type(targets_pb2.Figures)(type("Wrong", (), members))


def test_declaration_not_fitting_its_message_is_refused() -> None:
    with pytest.raises(TypeError, match="must be one of Long"):
        declare("int")
    with pytest.raises(TypeError, match="no such field"):
        declare("Long", "pieces")
    with pytest.raises(TypeError, match="must not be declared as a list"):
        declare("list[Long]")
    with pytest.raises(TypeError, match="must be nullable"):
        declare("Brand", "brand", reference(by="items", loader=BatchLoader(chart_pb2.BatchGetBrandsRequest)))
    with pytest.raises(TypeError, match="has no field brand_id"):
        declare("Brand | None", "brand", reference(by="brand_id", loader=BatchLoader(chart_pb2.BatchGetBrandsRequest)))


def test_subscription_needs_stream_with_cursors() -> None:
    with pytest.raises(TypeError, match="never null"):
        declare("OrderEvent | None", "changed", subscription_field(orders_pb2.WatchOrderRequest, arguments=WatchedOrder))
    with pytest.raises(TypeError, match="streaming rpc"):
        declare("OrderConnection", "changed", subscription_field(orders_pb2.ListOrdersRequest, arguments=OrdersOf))
    with pytest.raises(TypeError, match="not an input type over"):
        subscription_field(orders_pb2.WatchOrderRequest, arguments=OrdersOf)


@pytest.mark.parametrize("text", ["dict[str, int]", "list[list[int]]", "A | B", "", "list[A", Long])
def test_annotation_of_other_form_is_refused(text: object) -> None:
    with pytest.raises(TypeError):
        parse_annotation(text)


def test_annotation_forms_are_parsed() -> None:
    assert [parse_annotation(text).is_nullable for text in ("A", "A | None", "list[A]", "list[A | None]", "list[A] | None")] == [
        False,
        True,
        False,
        False,
        True,
    ]
