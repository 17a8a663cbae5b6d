"""A process that takes pieces of one stock document by group commit, and may be killed at any time.

`python -m tests.faults.group_commit_taker URI DRIVER DATABASE NAME TAKES once|forever` prints "ready" and waits for an input line. Then it
makes all takes at once and prints each as `NAME-3 17` (the 17th piece) or `NAME-3 SOLD_OUT`. With `forever` it repeats the same takes.
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
    """The event of each take."""

    kind = "store_changed"
    store_id: str


def make_group_commit(database: Database, batch_max: int) -> GroupCommit:
    """Makes batches far smaller than the queue, so that a kill finds transactions before, in and after their commit."""
    return GroupCommit(database, Outbox(database, "commerce", {"store_changed": ["member"]}), clock.now, batch_max=batch_max)


async def take(group_commit: GroupCommit, name: str) -> str:
    """Takes a piece; returns its number or SOLD_OUT. Retries with the same key while the database is contended."""

    def decide(snapshot: Snapshot) -> ChangeSet:
        stock = snapshot[STOCK]
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
    group_commit = make_group_commit(database, max(1, takes // 20))

    async def take_and_print(number: int) -> None:
        sys.stdout.write(f"{name}-{number} {await take(group_commit, f'{name}-{number}')}\n")
        sys.stdout.flush()

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    while True:
        await asyncio.gather(*(take_and_print(number) for number in range(takes)))
        if not forever:
            break
    await group_commit.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5]), sys.argv[6] == "forever"))
