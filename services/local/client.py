"""The command's own calls to the running suite, as the operator."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from quanyu.facts.v1 import facts_pb2, facts_pb2_grpc
from services.kit.channel import open_channel
from services.kit.errors import Conflict
from services.kit.principals import INSTALLATION, SERVICE, Grant, Principal, Signer
from services.local.folder import Folder
from services.local.keys import LOCAL, OPERATOR, SERVICES, Keys

DEADLINE_SECONDS = 60.0
SETTLE_POLL_SECONDS = 0.1
STANDS = ("_EXISTS", "JOINED_ALREADY", "SAME_PERSON", "REQUEST_ID_REUSED")
"""Ends of the reasons by which a service says that what was to be made is there."""
COMMAND = Principal("operator", (Grant(OPERATOR, INSTALLATION), Grant(SERVICE, INSTALLATION)))


@asynccontextmanager
async def channels(folder: Folder) -> AsyncIterator[Mapping[str, grpc.aio.Channel]]:
    """Channels to the four services of the suite that runs on this folder; `LocalError` when none does."""
    addresses = folder.running().addresses()
    async with connected(addresses, folder.read_keys(Keys)) as opened:
        yield opened


@asynccontextmanager
async def connected(addresses: Mapping[str, str], keys: Keys) -> AsyncIterator[Mapping[str, grpc.aio.Channel]]:
    """Channels to services at these addresses, whose calls are signed by the local issuer."""
    signer = Signer(LOCAL, keys.signing_setting(LOCAL))
    opened = {
        name: open_channel(addresses[name], lambda name=name: signer.token(name, COMMAND), DEADLINE_SECONDS)  # type: ignore[misc]
        for name in SERVICES
    }
    try:
        yield opened
    finally:
        for channel in opened.values():
            await channel.close()


async def backlog(opened: Mapping[str, grpc.aio.Channel]) -> tuple[int, int]:
    """Facts told anywhere and not yet applied, and facts parked."""
    waiting = parked = 0
    for channel in opened.values():
        stub = facts_pb2_grpc.FactOutboxServiceStub(channel)
        for each in (await stub.GetBacklog(facts_pb2.GetBacklogRequest())).backlogs:
            waiting, parked = waiting + each.waiting, parked + each.parked
    return waiting, parked


async def settled(opened: Mapping[str, grpc.aio.Channel]) -> None:
    """Returns once every fact told so far is applied or parked."""
    while (await backlog(opened))[0]:  # noqa: ASYNC110 - other processes do the work
        await asyncio.sleep(SETTLE_POLL_SECONDS)


async def standing(call: Any) -> None:
    """Awaits a call that makes something; that it stands already is as good."""
    try:
        await call
    except Conflict as refusal:
        if not refusal.reason.endswith(STANDS):
            raise
