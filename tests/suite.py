"""The suite as real processes for the time of one function call, for benches, proofs and stories."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from services.kit.mongo.client import Database
from services.kit.runtime.runtime import SERVICES
from services.kit.settings import Settings
from services.local.folder import RunningProcess
from services.local.keys import Keys, new_keys
from services.local.mongod import free_port
from services.local.suite import build_stages
from services.local.supervisor import Supervisor

Result = TypeVar("Result")


async def with_suite(
    uri: str, use: Callable[[dict[str, RunningProcess], Keys], Awaitable[Result]], *, gateway: bool = False, **changes: Any
) -> Result:
    """Runs the four services (and the gateway) on separate databases; returns the result of `use(processes by name, keys)`.

    `changes` are settings of all processes.
    """
    keys = new_keys()
    names = (*SERVICES, *(["gateway"] if gateway else []))
    ports = {f"{name}_address" if name != "gateway" else "gateway_listen": f"127.0.0.1:{free_port()}" for name in names}
    settings = Settings(mongo_uri=uri, database_prefix=f"suite{secrets.token_hex(4)}", **ports)  # type: ignore[arg-type]
    settings = msgspec.structs.replace(settings, secret_keys=keys.secret_key, hash_keys=keys.hash_key, **changes)
    services, gateways = build_stages(settings, keys)
    log: list[str] = []
    supervisor = Supervisor((services, gateways) if gateway else (services,), drain_seconds=settings.drain_seconds, echo=log.append)
    results: list[Result] = []

    async def ready(processes: Sequence[RunningProcess]) -> None:
        results.append(await use({process.name: process for process in processes}, keys))
        supervisor.stop()

    try:
        await supervisor.run(ready)
    finally:
        await _drop(settings)
    return results[0]


async def _drop(settings: Settings) -> None:
    for name in SERVICES:
        database = Database(settings, f"{settings.database_prefix}_{name}")
        await database.client.drop_database(database.name)
        await database.close()
