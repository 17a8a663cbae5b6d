"""A process that applies visits, and may be killed at any time.

`python -m tests.faults.event_subscriber URI DRIVER DATABASE ADDRESS EFFECT` prints "ready" and serves until its input ends. Effects:

- `numbered`: an event is inserted with its position within its key; FAILING_EVENT fails until `repaired` has a document.
- `single`: an event is one insert.
- `batch`: consecutive events are inserted in one command.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit.events.inbox import BatchHandler, EventInUnit, Handler
from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.kit.transactions.outbox import Outbox
from services.kit.transactions.unit_of_work import UnitOfWork
from tests.services.kit.event_services import UnauthenticatedInbox

FAILING_EVENT = ("key-0", 2)
"""The key of the failing event, and its position within the key."""


async def main(uri: str, driver: Any, name: str, address: str, effect: str) -> None:
    database = Database(Settings(mongo_uri=uri, mongo_driver=driver), name)

    async def numbered(uow: UnitOfWork, event: events_pb2.Event) -> None:
        positions = database["positions"]
        counter = await positions.find_one_and_update(
            {"_id": event.key}, {"$inc": {"n": 1}}, upsert=True, return_document=True, session=uow.session
        )
        if (event.key, counter["n"]) == FAILING_EVENT and not await database["repaired"].find_one({}, session=uow.session):
            raise ValueError("not repaired")
        number = int(event.visit_started.visit_id)
        await database["effects"].insert_one({"key": event.key, "number": number, "position": counter["n"]}, session=uow.session)

    async def single(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await database["effects"].insert_one(_effect_document(event), session=uow.session)

    async def batch(events: Sequence[EventInUnit]) -> None:
        await database["effects"].insert_many([_effect_document(event) for _, event in events], session=events[0][0].session)

    handlers: dict[str, Handler] = {"numbered": numbered, "single": single, "batch": BatchHandler(batch)}
    inbox = UnauthenticatedInbox(database, {"visit_started": handlers[effect]}, Outbox(database, "subscriber"))
    await inbox.prepare()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    events_pb2_grpc.add_EventInboxServiceServicer_to_server(inbox, server)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    await database.close()


def _effect_document(event: events_pb2.Event) -> dict[str, Any]:
    return {"key": event.key, "number": int(event.visit_started.visit_id)}


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
