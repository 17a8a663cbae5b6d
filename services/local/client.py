"""gRPC client of the running suite, which calls as the operator."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit.errors import Conflict
from services.kit.rpc.channel import open_channel
from services.kit.security.principals import INSTALLATION, SERVICE, Grant, Principal, Signer
from services.local.folder import Folder
from services.local.keys import LOCAL, OPERATOR, SERVICES, Keys

DEADLINE_SECONDS = 60.0
SETTLE_POLL_SECONDS = 0.1
EXISTS_REASONS = ("_EXISTS", "JOINED_ALREADY", "SAME_PERSON", "REQUEST_ID_REUSED")
"""A conflict whose reason ends with one of these means that the object already exists."""
COMMAND_PRINCIPAL = Principal("operator", (Grant(OPERATOR, INSTALLATION), Grant(SERVICE, INSTALLATION)))


@asynccontextmanager
async def open_channels(folder: Folder) -> AsyncIterator[Mapping[str, grpc.aio.Channel]]:
    """Opens channels to the four services of the suite that uses this folder; raises `LocalError` if none runs."""
    addresses = folder.running().addresses()
    async with connect(addresses, folder.read_keys(Keys)) as opened:
        yield opened


@asynccontextmanager
async def connect(addresses: Mapping[str, str], keys: Keys) -> AsyncIterator[Mapping[str, grpc.aio.Channel]]:
    """Opens channels to services at these addresses. The local issuer signs the calls."""
    signer = Signer(LOCAL, keys.signing_setting(LOCAL))
    opened = {
        name: open_channel(addresses[name], lambda name=name: signer.sign(name, COMMAND_PRINCIPAL), DEADLINE_SECONDS)  # type: ignore[misc]
        for name in SERVICES
    }
    try:
        yield opened
    finally:
        for channel in opened.values():
            await channel.close()


async def count_backlog(opened: Mapping[str, grpc.aio.Channel]) -> tuple[int, int]:
    """Returns the number of events that wait for delivery, and of those that are parked."""
    waiting = parked = 0
    for channel in opened.values():
        stub = events_pb2_grpc.EventOutboxServiceStub(channel)
        for each in (await stub.GetBacklog(events_pb2.GetBacklogRequest())).backlogs:
            waiting, parked = waiting + each.waiting, parked + each.parked
    return waiting, parked


async def wait_until_settled(opened: Mapping[str, grpc.aio.Channel]) -> None:
    """Returns once every published event is applied or parked."""
    while (await count_backlog(opened))[0]:  # noqa: ASYNC110 - other processes do the work
        await asyncio.sleep(SETTLE_POLL_SECONDS)


async def create_if_missing(call: Any) -> None:
    """Awaits a call that creates an object; an object that already exists is left as it is."""
    try:
        await call
    except Conflict as refusal:
        if not refusal.reason.endswith(EXISTS_REASONS):
            raise
