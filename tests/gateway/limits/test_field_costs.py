"""Field costs: the costs of the front ends' operations, and the declared sizes of lists."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from graphql import OperationDefinitionNode

from gateway.execution.executor import Executor
from gateway.graph import schema
from gateway.limits import field_costs
from gateway.schema.fields import GraphField
from gateway.schema.types import computed_field, object_type
from quanyu.organization.v1 import targets_pb2
from tests.gateway.conftest import OPERATIONS
from tests.gateway.graph import CORE, declared_fields

SNAPSHOT = Path(__file__).with_name("operation_costs.toml")


def test_operation_costs_match_the_snapshot() -> None:
    executor = Executor(schema.build(), suggestions=False)
    costs = {}
    for path in OPERATIONS.glob("*.graphql"):
        document = executor.prepare(path.read_text()).ast
        assert document is not None, path
        (operation,) = (item for item in document.definitions if isinstance(item, OperationDefinitionNode))
        costs[path.stem] = {
            "default": executor.rule.cost(document, operation, {}),
            "highest": executor.rule.cost(document, operation, None),
        }
    assert costs == tomllib.loads(SNAPSHOT.read_text())


def test_every_list_has_a_size() -> None:
    unsized = [where for where, field in declared_fields(GraphField) if field.annotation_info.is_list and field.list_size < 1]
    assert unsized == []


@pytest.mark.parametrize(("name", "field"), [("staff_ids", None), ("other", computed_field(lambda _: [], "Others."))])
def test_list_without_size_is_refused(name: str, field: Any) -> None:
    members = {"__annotations__": {name: "list[ID]"}} | ({name: field} if field is not None else {})
    with pytest.raises(TypeError, match=rf"BatchListCreditsRequest\.{name} is a list: set .*list_size"):
        object_type(targets_pb2.BatchListCreditsRequest)(type("Unsized", (), members))


def test_table_shows_rpcs_and_list_sizes() -> None:
    rows = list(field_costs.format_rows(CORE))
    assert "| Query.offers | 500 | 0 | `first` |" in rows
    assert "| Brand.offers | 0 | 500 | `first` |" in rows
    assert "| OfferConnection.nodes | 0 | 0 | of its page |" in rows
    assert "| Offer.goods | 0 | 0 | 20 |" in rows
