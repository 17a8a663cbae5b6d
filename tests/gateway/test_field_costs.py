"""The cost of the front ends' operations, and where it comes from."""

import tomllib
from pathlib import Path

from graphql import OperationDefinitionNode

from gateway import schema
from gateway.execution import Executor
from tests.gateway.conftest import OPERATIONS

SNAPSHOT = Path(__file__).with_name("operation_costs.toml")


def test_operation_costs_match_the_snapshot() -> None:
    executor = Executor(schema.build(), suggestions=False)
    costs = {}
    for path in OPERATIONS.glob("*.graphql"):
        document = executor.prepare(path.read_text()).document
        assert document is not None, path
        (operation,) = (item for item in document.definitions if isinstance(item, OperationDefinitionNode))
        costs[path.stem] = {
            "default": executor.rule.cost(document, operation, {}),
            "highest": executor.rule.cost(document, operation, None),
        }
    assert costs == tomllib.loads(SNAPSHOT.read_text())
