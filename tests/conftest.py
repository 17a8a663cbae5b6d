"""One mongod for the whole run, a database of its own for each test, real servers in this process on port 0."""

import fcntl
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor

from services.kit.mongo.client import Database
from services.kit.security import authorization
from services.kit.settings import Settings
from services.local.mongod import Mongod

TURNS = Path(tempfile.gettempdir()) / f"quanyu-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}.lock"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests of a shared run go on side by side, but for those marked `alone`: what they load and time is the whole machine."""
    with TURNS.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def undeclared() -> Iterator[list[str]]:
    """The refusals that services of this process gave and whose reason the rpc does not declare. Probes of tests declare nothing."""
    found: list[str] = []

    def is_declared(method: MethodDescriptor, reason: str) -> bool:
        declared = decide(method, reason)
        if not declared and method.full_name.startswith("quanyu."):
            found.append(f"{method.full_name} refuses with {reason}")
        return declared

    decide, authorization.is_declared = authorization.is_declared, is_declared
    yield found
    authorization.is_declared = decide


@pytest.fixture(autouse=True)
def refusals_are_declared(undeclared: list[str]) -> Iterator[None]:
    """Fails each test in which an rpc refuses with a reason that it does not declare."""
    yield
    found = sorted(set(undeclared))
    undeclared.clear()
    assert not found, f"declare these in the option refuses of the rpc: {found}"


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real one-node replica set; with QUANYU_TEST_MONGO_URI the server that stands there."""
    if uri := os.environ.get("QUANYU_TEST_MONGO_URI"):
        yield uri
        return
    with Mongod(tmp_path_factory.mktemp("mongo")) as mongod:
        yield mongod.uri


@pytest.fixture(params=["motor"])
def settings(mongo_uri: str, request: pytest.FixtureRequest) -> Settings:
    return Settings(mongo_uri=mongo_uri, mongo_driver=request.param, database_prefix=f"test{secrets.token_hex(4)}")


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings, f"{settings.database_prefix}_kit")
    yield database
    await database.client.drop_database(database.name)
    await database.close()
