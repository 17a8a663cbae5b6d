"""A process that takes from one counter through the group_commit, and may be killed while it does.

`python -m tests.faults.group_commit_taker URI DRIVER DATABASE NAME TAKES once|forever` says "ready", waits for a line, makes all its takes at once
and prints each as `NAME-3 17` (the 17th piece) or `NAME-3 SOLD_OUT`. With `forever` it makes the same takes again and again.
"""

import asyncio
import sys
from typing import Any

from google.protobuf.wrappers_pb2 import Int64Value

from services.kit import clock
from services.kit.errors import Exhausted, Unavailable
from services.kit.mongo.client import Database
from services.kit.settings import Settings
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.outbox import Outbox
from services.kit.values.event import Event

STOCK = DocumentRef("stock", "var_1:str_1")
SOLD_OUT = "SOLD_OUT"


class StoreChanged(Event, frozen=True):
    """The event each take tells."""

    kind = "store_changed"
    store_id: str


def lane_on(database: Database, batch_max: int) -> GroupCommit:
    """Batches far smaller than what waits, so that a kill finds transactions before, in and after it."""
    return GroupCommit(database, Outbox(database, "commerce", {"store_changed": ["member"]}), clock.now, batch_max=batch_max)


async def take(group_commit: GroupCommit, name: str) -> str:
    """Which piece this take got, or SOLD_OUT; asks again, under the same id, while the database is contended."""

    def decide(state: Snapshot) -> ChangeSet:
        stock = state[STOCK]
        assert stock is not None
        if stock["reserved"] >= stock["on_hand"]:
            raise Exhausted(SOLD_OUT)
        return ChangeSet(
            increments={STOCK: {"reserved": 1}},
            inserts=[("holds", {"_id": name, "piece": stock["reserved"] + 1})],
            events=[StoreChanged("str_1")],
            answer=Int64Value(value=stock["reserved"] + 1),
        )

    while True:
        try:
            return str((await group_commit.run(IdempotencyKey(name, name.encode()), [STOCK], decide, Int64Value)).value)
        except Exhausted as refusal:
            return refusal.reason
        except Unavailable:
            continue


async def main(uri: str, driver: Any, database_name: str, name: str, takes: int, forever: bool) -> None:
    database = Database(Settings(mongo_uri=uri, mongo_driver=driver), database_name)
    await database.ping()
    group_commit = lane_on(database, max(1, takes // 20))

    async def take_and_tell(number: int) -> None:
        sys.stdout.write(f"{name}-{number} {await take(group_commit, f'{name}-{number}')}\n")
        sys.stdout.flush()

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    while True:
        await asyncio.gather(*(take_and_tell(number) for number in range(takes)))
        if not forever:
            break
    await group_commit.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5]), sys.argv[6] == "forever"))
