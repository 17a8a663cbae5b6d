"""Fixtures of all tests: one mongod for the whole run, a separate database for each test, and a check of declared refusals."""

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

RUN_LOCK = Path(tempfile.gettempdir()) / f"quanyu-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}.lock"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Runs tests with the mark `alone` exclusively, since they load or time the whole machine; the others run concurrently."""
    with RUN_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def undeclared_refusals() -> Iterator[list[str]]:
    """Collects the refusals of this process with a reason that the rpc does not declare. Rpcs of test services are ignored."""
    found: list[str] = []

    def is_declared(method: MethodDescriptor, reason: str) -> bool:
        declared = original(method, reason)
        if not declared and method.full_name.startswith("quanyu."):
            found.append(f"{method.full_name} refuses with {reason}")
        return declared

    original, authorization.is_declared = authorization.is_declared, is_declared
    yield found
    authorization.is_declared = original


@pytest.fixture(autouse=True)
def check_declared_refusals(undeclared_refusals: list[str]) -> Iterator[None]:
    """Fails each test in which an rpc refuses with a reason that it does not declare."""
    yield
    found = sorted(set(undeclared_refusals))
    undeclared_refusals.clear()
    assert not found, f"declare these reasons in the option `refuses` of the rpc: {found}"


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Starts a one-node replica set, unless QUANYU_TEST_MONGO_URI names a server."""
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
