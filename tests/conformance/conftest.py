"""Fixture of the conformance suites: Node, with their packages."""

import pytest

from tests.conformance.node import installed


@pytest.fixture(scope="session")
def node() -> str:
    """Returns the path of Node, with all packages installed. Without Node the test is skipped."""
    return installed()
