"""Refusals name the invalid field by its path in the client's input."""

from typing import Any

import pytest

import gateway.graph.schema
from gateway.schema import refusal_types
from gateway.schema.registry import TYPES
from services.kit.errors import Conflict
from tests.gateway.conftest import Gateway, Open

YUAN = {"amount": "1", "currency": "CNY"}


@pytest.fixture
async def gateway(open_gateway: Open) -> Gateway:
    return await open_gateway("organization", "commerce", "member")


async def refused(gateway: Gateway, mutation: str, given: dict[str, Any]) -> dict[str, str]:
    noun = mutation[0].upper() + mutation[1:]
    query = f"mutation ($input: {noun}Input!) {{ {mutation}(input: $input) {{ __typename ... on InvalidInput {{ field message }} }} }}"
    answer: dict[str, str] = (await gateway.data(query, {"input": given | {"brandId": "brd_a"}}, subject="operator"))[mutation]
    assert answer.pop("__typename") == "InvalidInput"
    return answer


@pytest.mark.parametrize(
    ("variant", "field", "message"),
    [
        ({"price": {"amount": "-1", "currency": "CNY"}}, "price.amount", "The price must be 0 or more."),
        (
            {"price": {"amount": "1.234", "currency": "CNY"}},
            "price.amount",
            "`amount` has too many decimals. An amount of CNY has at most 2.",
        ),
        ({"attributes": [{"name": "a", "value": "b"}] * 2}, "attributes", "A name is given twice. Give each name once."),
        ({"attributes": [{"name": "a", "value": ""}]}, "attributes", "The attributes must not be empty."),
        ({"variantId": "shirt"}, "variantId", "The variant id must match ^var_[A-Za-z0-9_-]{1,60}\\Z"),
    ],
)
async def test_nested_field_has_its_full_path(gateway: Gateway, variant: dict[str, Any], field: str, message: str) -> None:
    """The gateway or the service may refuse it."""
    product = {"name": {"zh": "白衬衫"}, "variants": [{"price": YUAN}, {"price": YUAN, **variant}]}
    assert await refused(gateway, "createProduct", {"product": product}) == {
        "field": f"product.variants.1.{field}", "message": message
    }  # fmt: skip


async def test_invalid_identity_is_named_by_its_index(gateway: Gateway) -> None:
    for value, message in (("1", "This is not a valid phone number."), ("1" * 201, "The value must have at most 200 characters.")):
        identities = [{"kind": "PHONE", "value": "19900000001"}, {"kind": "PHONE", "value": value}]
        assert await refused(gateway, "registerConsumer", {"identities": identities}) == {"field": "identities.1.value", "message": message}


@pytest.mark.parametrize(
    ("input_name", "field", "path"),
    [
        ("CreateProductInput", "request_id", "idempotencyKey"),
        ("CreateProductInput", "brand_id", "brandId"),
        ("CreateProductInput", "product.variants[12].price.minor", "product.variants.12.price.amount"),
        ("CreateProductInput", "product.variants[0].attributes[...]", "product.variants.0.attributes"),
        ("CreateProductInput", "product.of_a_later_version[3].kind_of", "product.ofALaterVersion.3.kindOf"),
        ("PlaceOrderInput", "destination.position.longitude", "destination.position.longitude"),
        ("PlaceOrderInput", "lines[0]", "lines.0"),
    ],
)
def test_service_field_becomes_client_path(input_name: str, field: str, path: str) -> None:
    assert TYPES[input_name].__input_type__.client_path(field) == path


def test_undeclared_reason_has_type_of_family() -> None:
    """A later version of a service may use reasons without a member in this union."""
    members = refusal_types.family_refusal_types()
    refusal = refusal_types.build_refusal(Conflict("TASK_CLOSED", "The task is closed."), members, str)
    assert type(refusal) in members and type(refusal) is not refusal_types.refusal_type_of(Conflict("TASK_CLOSED", ""))
    assert (refusal.code, refusal.message) == ("TASK_CLOSED", "The task is closed.")
