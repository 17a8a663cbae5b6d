"""Settings of the kit's tests: each test runs with both MongoDB drivers."""

import secrets

import pytest

from services.kit.settings import Settings

DRIVERS = ("motor", "pymongo")


@pytest.fixture(params=DRIVERS)
def settings(mongo_uri: str, request: pytest.FixtureRequest) -> Settings:
    return Settings(mongo_uri=mongo_uri, mongo_driver=request.param, database_prefix=f"test{secrets.token_hex(4)}")
