"""Which part of the input a refusal means: its path, as the client wrote it."""

from typing import Any

import pytest

import gateway.graph.schema
from gateway.schema import refusal_types
from gateway.schema.registry import NAMES
from services.kit.errors import Conflict
from tests.gateway.conftest import Gateway, Open

YUAN = {"amount": "1", "currency": "CNY"}


@pytest.fixture
async def gateway(open_gateway: Open) -> Gateway:
    return await open_gateway("organization", "commerce", "member")


async def refused(gateway: Gateway, mutation: str, given: dict[str, Any]) -> dict[str, str]:
    noun = mutation[0].upper() + mutation[1:]
    query = f"mutation ($input: {noun}Input!) {{ {mutation}(input: $input) {{ __typename ... on InvalidInput {{ field message }} }} }}"
    answer: dict[str, str] = (await gateway.data(query, {"input": given | {"brandId": "brd_a"}}, who="operator"))[mutation]
    assert answer.pop("__typename") == "InvalidInput"
    return answer


@pytest.mark.parametrize(
    ("variant", "field", "message"),
    [
        ({"price": {"amount": "-1", "currency": "CNY"}}, "price.amount", "The price must be 0 or more."),
        ({"price": {"amount": "1.234", "currency": "CNY"}}, "price.amount", "1.234 is no amount of CNY"),
        ({"attributes": [{"name": "a", "value": "b"}] * 2}, "attributes", "give each name once"),
        ({"attributes": [{"name": "a", "value": ""}]}, "attributes", "The attributes must not be empty."),
        ({"variantId": "shirt"}, "variantId", "The variant id must match ^var_[A-Za-z0-9_-]{1,60}\\Z"),
    ],
)
async def test_a_part_of_a_part_has_the_path_to_it(gateway: Gateway, variant: dict[str, Any], field: str, message: str) -> None:
    """Whether the gateway refuses it or the service."""
    product = {"name": {"zh": "白衬衫"}, "variants": [{"price": YUAN}, {"price": YUAN, **variant}]}
    assert await refused(gateway, "createProduct", {"product": product}) == {
        "field": f"product.variants.1.{field}", "message": message
    }  # fmt: skip


async def test_of_several_identities_the_wrong_one_is_named(gateway: Gateway) -> None:
    for value, message in (("1", "there can be no such phone number"), ("1" * 201, "The value must have at most 200 characters.")):
        identities = [{"kind": "PHONE", "value": "19900000001"}, {"kind": "PHONE", "value": value}]
        assert await refused(gateway, "registerConsumer", {"identities": identities}) == {"field": "identities.1.value", "message": message}


@pytest.mark.parametrize(
    ("form", "field", "path"),
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
def test_a_services_field_as_a_client_writes_it(form: str, field: str, path: str) -> None:
    assert NAMES[form].__form__.written(field) == path


def test_a_reason_that_the_rpc_does_not_name_is_told_as_its_family() -> None:
    """A service of a later version may have reasons that this graph's union has no type for."""
    members = refusal_types.family_types()
    told = refusal_types.as_refusal_type(Conflict("TASK_CLOSED", "it is over"), members, str)
    assert type(told) in members and type(told) is not refusal_types.type_of(Conflict("TASK_CLOSED", ""))
    assert (told.code, told.message) == ("TASK_CLOSED", "it is over")
