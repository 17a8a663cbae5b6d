"""The listener's side: applies facts, each in the transaction of its effect, exactly once and in order for each key.

A batch is one transaction (a group commit): last sequences, effects and told facts of all its facts together. When anything in it
fails, its facts are applied one by one, so that only the failing fact's key is held back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from msgspec import Struct
from pymongo import UpdateOne
from pymongo.errors import ConnectionFailure, PyMongoError

from quanyu.facts.v1 import facts_pb2, facts_pb2_grpc
from services.kit import ids
from services.kit.clock import Clock, now
from services.kit.errors import Denied, Invalid, Refusal, Unavailable
from services.kit.mongo.client import Database, Session, ensure
from services.kit.observability.logs import logger
from services.kit.security import authorization
from services.kit.transactions.outbox import Outbox, route
from services.kit.transactions.unit_of_work import UnitOfWork

COLLECTION = "inbox"
"""The last sequence applied per source and key: {_id: "source:key", sequence}."""
BATCH_MAX = 200
GROUP_ATTEMPTS_MAX = 4
"""Tries of a whole batch that meets write conflicts, before its facts are applied one by one."""

Handler = Callable[[UnitOfWork, facts_pb2.Fact], Awaitable[None]]
"""The effect of one kind of fact; it writes through `uow.session` only. `uow.at` is when the fact happened."""

Happened = tuple[UnitOfWork, facts_pb2.Fact]


class BatchHandler:
    """An effect that takes neighbours of one kind in one call, in their order: what every fact would read and write alone is done once.

    All share the transaction; each comes with its own unit. When it raises, the facts of the batch are applied one by one.
    Batches with such a fact take turns in a process: what neighbours share other batches share as well, and of two transactions that
    meet in one document the second does all its work again.
    """

    def __init__(self, effect: Callable[[Sequence[Happened]], Awaitable[None]]) -> None:
        self.effect = effect

    async def __call__(self, uow: UnitOfWork, fact: facts_pb2.Fact) -> None:
        await self.effect([(uow, fact)])


APPLIED, FAILED, WAITING = facts_pb2.DELIVERY_STATE_APPLIED, facts_pb2.DELIVERY_STATE_FAILED, facts_pb2.DELIVERY_STATE_WAITING


class Plan(Struct, frozen=True):
    """What a batch comes to: the state of each fact in its order, which of them to apply, and the sequences that are last then."""

    states: "tuple[facts_pb2.DeliveryState.ValueType, ...]"
    apply: tuple[facts_pb2.Fact, ...]
    last: Mapping[str, int]


def plan(last: Mapping[str, int], facts: Iterable[facts_pb2.Fact]) -> Plan:
    """Folds a batch over the last sequence of each key (0 when absent): a key takes 1, 2, 3 … once each, and nothing behind a gap."""
    states: list[facts_pb2.DeliveryState.ValueType] = []
    apply: list[facts_pb2.Fact] = []
    moved: dict[str, int] = {}
    for fact in facts:
        expected = moved.get(fact.key, last.get(fact.key, 0)) + 1
        states.append(APPLIED if fact.sequence <= expected else WAITING)
        if fact.sequence == expected:
            apply.append(fact)
            moved[fact.key] = expected
    return Plan(tuple(states), tuple(apply), moved)


class FactSink(facts_pb2_grpc.FactSinkServiceServicer):
    """Takes the facts this service hears. `handlers` names the effect of each kind."""

    def __init__(self, database: Database, handlers: Mapping[str, Handler], outbox: Outbox, clock: Clock = now) -> None:
        self.database, self.handlers, self.outbox, self.clock = database, handlers, outbox, clock
        self.turn = asyncio.Lock()

    async def prepare(self) -> None:
        """The collection, which a transaction on a shard of its own could not create."""
        await ensure(self.database[COLLECTION])

    async def Deliver(self, request: facts_pb2.DeliverRequest, context: Any) -> facts_pb2.DeliverResponse:
        facts = list(request.facts)
        if not request.source or len(facts) > BATCH_MAX or any(fact.source != request.source for fact in facts):
            raise Invalid("INVALID_BATCH", f"give a source and at most {BATCH_MAX} facts, all of that source", field="facts")
        _check_source(request.source, facts)
        authorization.current.set(authorization.SYSTEM)
        shares = any(isinstance(self.handlers.get(fact.WhichOneof("body") or ""), BatchHandler) for fact in facts)
        async with self.turn if shares else nullcontext():
            deliveries = await self._together(request.source, facts) or await self._singly(request.source, facts)
        return facts_pb2.DeliverResponse(deliveries=deliveries)

    async def _together(self, source: str, facts: Sequence[facts_pb2.Fact]) -> list[facts_pb2.Delivery]:
        """The whole batch in one transaction; nothing when that cannot be."""
        try:
            return await self.database.transact(lambda session: self._apply(session, source, facts), attempts_max=GROUP_ATTEMPTS_MAX)
        except Exception as error:
            if _out_of_reach(error):
                raise
            return []

    async def _singly(self, source: str, facts: Sequence[facts_pb2.Fact]) -> list[facts_pb2.Delivery]:
        """Each fact in its own transaction; one that is not applied holds back the later ones of its key."""
        deliveries: list[facts_pb2.Delivery] = []
        held = set[str]()
        for fact in facts:
            if fact.key in held:
                deliveries.append(facts_pb2.Delivery(fact_id=fact.id, state=WAITING, reason="BEHIND_ANOTHER"))
                continue
            delivery = await self._one(source, fact)
            deliveries.append(delivery)
            if delivery.state != APPLIED:
                held.add(fact.key)
        return deliveries

    async def _one(self, source: str, fact: facts_pb2.Fact) -> facts_pb2.Delivery:
        try:
            (delivery,) = await self.database.transact(lambda session: self._apply(session, source, [fact]))
            return delivery
        except Refusal as refusal:
            # What may pass by itself is tried again without counting.
            state = WAITING if refusal.retryable else FAILED
            return facts_pb2.Delivery(fact_id=fact.id, state=state, reason=refusal.reason)
        except Exception as error:
            if _out_of_reach(error):
                raise
            bug = ids.new("bug")
            logger().exception("fact failed", bug=bug, fact=fact.id, kind=fact.WhichOneof("body"), source=source)
            return facts_pb2.Delivery(fact_id=fact.id, state=FAILED, reason=f"INTERNAL {bug}")

    async def _apply(self, session: Session, source: str, facts: Sequence[facts_pb2.Fact]) -> list[facts_pb2.Delivery]:
        """Applies facts in order within a transaction; raises what the first failing one raises."""
        rows = self.database[COLLECTION].find({"_id": {"$in": sorted({f"{source}:{fact.key}" for fact in facts})}}, session=session)
        last = {row["_id"].removeprefix(f"{source}:"): row["sequence"] async for row in rows}
        planned = plan(last, facts)
        if planned.last:
            # First of all, and even if a fact has no other effect: of two relays that deliver the same, one conflicts here.
            await self.database[COLLECTION].bulk_write(
                [UpdateOne({"_id": f"{source}:{key}"}, {"$set": {"sequence": n}}, upsert=True) for key, n in planned.last.items()],
                ordered=False,
                session=session,
            )
        for kind, facts_of_kind in groupby(planned.apply, lambda fact: fact.WhichOneof("body") or ""):
            await self._effect(session, kind, list(facts_of_kind))
        return [
            facts_pb2.Delivery(fact_id=fact.id, state=state, reason="" if state == APPLIED else "EARLIER_MISSING")
            for fact, state in zip(facts, planned.states, strict=True)
        ]

    async def _effect(self, session: Session, kind: str, facts: Sequence[facts_pb2.Fact]) -> None:
        handler = self.handlers.get(kind)
        if handler is None:
            # A newer version tells it; the sender keeps it until this one is replaced, too.
            raise Invalid("UNKNOWN_KIND", f"nobody here hears {kind}")
        happened = [(UnitOfWork(session, self._at(fact), self.outbox), fact) for fact in facts]
        if isinstance(handler, BatchHandler):
            await handler.effect(happened)
        for unit, fact in happened:
            if not isinstance(handler, BatchHandler):
                await handler(unit, fact)
            await unit.flush()

    def _at(self, fact: facts_pb2.Fact) -> datetime:
        return fact.at.ToDatetime(tzinfo=UTC) if fact.HasField("at") else self.clock()


def _check_source(source: str, facts: Iterable[facts_pb2.Fact]) -> None:
    """`Denied` unless `source` itself signed the call, and tells facts of this kind at all."""
    if authorization.caller().issuer != source:
        raise Denied("SOURCE_NOT_YOURS", "a service delivers its own facts, signed by itself")
    for fact in facts:
        kind = fact.WhichOneof("body")
        if kind and route(kind).told_by != source:
            raise Denied("KIND_NOT_YOURS", f"{kind} is told by {route(kind).told_by}")


def _out_of_reach(error: Exception) -> bool:
    """Whether our own database is what failed: no fact is to blame."""
    if isinstance(error, Unavailable):
        return error.reason == "DATABASE_UNAVAILABLE"
    return isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError"))
