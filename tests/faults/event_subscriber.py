"""A process that hears visits, and may be killed while it applies them.

`python -m tests.faults.event_subscriber URI DRIVER DATABASE ADDRESS EFFECT` says "ready" and answers until its input ends. With the effect
`placed` each event is written with the place at which it came in its key, and the event POISON fails until a document stands in `cured`; with
`bare` an event is one insert, with `together` neighbours are inserted in one command.
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

POISON = ("key-0", 2)
"""The key and place in it of the event that fails."""


async def main(uri: str, driver: Any, name: str, address: str, effect: str) -> None:
    database = Database(Settings(mongo_uri=uri, mongo_driver=driver), name)

    async def placed(uow: UnitOfWork, event: events_pb2.Event) -> None:
        places = database["places"]
        row = await places.find_one_and_update(
            {"_id": event.key}, {"$inc": {"n": 1}}, upsert=True, return_document=True, session=uow.session
        )
        if (event.key, row["n"]) == POISON and not await database["cured"].find_one({}, session=uow.session):
            raise ValueError("not cured")
        number = int(event.visit_started.visit_id)
        await database["effects"].insert_one({"key": event.key, "number": number, "place": row["n"]}, session=uow.session)

    async def bare(uow: UnitOfWork, event: events_pb2.Event) -> None:
        await database["effects"].insert_one(_row(event), session=uow.session)

    async def together(happened: Sequence[EventInUnit]) -> None:
        await database["effects"].insert_many([_row(event) for _, event in happened], session=happened[0][0].session)

    effects: dict[str, Handler] = {"placed": placed, "bare": bare, "together": BatchHandler(together)}
    sink = UnauthenticatedInbox(database, {"visit_started": effects[effect]}, Outbox(database, "subscriber"))
    await sink.prepare()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    events_pb2_grpc.add_EventInboxServiceServicer_to_server(sink, server)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    await database.close()


def _row(event: events_pb2.Event) -> dict[str, Any]:
    return {"key": event.key, "number": int(event.visit_started.visit_id)}


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
