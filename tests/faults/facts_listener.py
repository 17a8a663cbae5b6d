"""A process that hears visits, and may be killed while it applies them.

`python -m tests.faults.facts_listener URI DATABASE ADDRESS` says "ready" and answers until its input ends. Each effect is written with
the place at which it came in its key. The fact POISON fails until a document stands in `cured`.
"""

import asyncio
import sys

import grpc
import uvloop

from quanyu.facts.v1 import facts_pb2, facts_pb2_grpc
from services.kit.facts.inbox import FactSink
from services.kit.facts.outbox import Outbox
from services.kit.mongo import Database
from services.kit.settings import Settings
from services.kit.unit import Unit

POISON = ("key-0", 2)
"""The key and place in it of the fact that fails."""


async def main(uri: str, name: str, address: str) -> None:
    database = Database(Settings(mongo_uri=uri), name)

    async def effect(unit: Unit, fact: facts_pb2.Fact) -> None:
        places = database["places"]
        row = await places.find_one_and_update(
            {"_id": fact.key}, {"$inc": {"n": 1}}, upsert=True, return_document=True, session=unit.session
        )
        if (fact.key, row["n"]) == POISON and not await database["cured"].find_one({}, session=unit.session):
            raise ValueError("not cured")
        number = int(fact.visit_started.visit_id)
        await database["effects"].insert_one({"key": fact.key, "number": number, "place": row["n"]}, session=unit.session)

    sink = FactSink(database, {"visit_started": effect}, Outbox(database, "listener"))
    await sink.prepare()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    facts_pb2_grpc.add_FactSinkServiceServicer_to_server(sink, server)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    await database.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
