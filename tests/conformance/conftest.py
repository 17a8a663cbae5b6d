"""What the judges need: Node, and a gateway that runs."""

import pytest

from tests.conformance.node import installed


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the judges' packages in place; else the test is skipped with the reason."""
    return installed()
