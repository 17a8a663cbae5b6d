"""The subscriber's side: applies events, each in the transaction of its effect, exactly once and in order for each key.

A batch is one transaction (a group commit): last sequences, effects and told events of all its events together. When anything in it
fails, its events are applied one by one, so that only the failing event's key is held back.
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

from quanyu.events.v1 import events_pb2, events_pb2_grpc
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
"""Tries of a whole batch that meets write conflicts, before its events are applied one by one."""

Handler = Callable[[UnitOfWork, events_pb2.Event], Awaitable[None]]
"""The effect of one kind of event; it writes through `uow.session` only. `uow.at` is when the event happened."""

Happened = tuple[UnitOfWork, events_pb2.Event]


class BatchHandler:
    """An effect that takes neighbours of one kind in one call, in their order: what every event would read and write alone is done once.

    All share the transaction; each comes with its own unit. When it raises, the events of the batch are applied one by one.
    Batches with such an event take turns in a process: what neighbours share other batches share as well, and of two transactions that
    meet in one document the second does all its work again.
    """

    def __init__(self, effect: Callable[[Sequence[Happened]], Awaitable[None]]) -> None:
        self.effect = effect

    async def __call__(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        await self.effect([(uow, event)])


APPLIED, FAILED, WAITING = events_pb2.DELIVERY_STATE_APPLIED, events_pb2.DELIVERY_STATE_FAILED, events_pb2.DELIVERY_STATE_WAITING


class Plan(Struct, frozen=True):
    """What a batch comes to: the state of each event in its order, which of them to apply, and the sequences that are last then."""

    states: "tuple[events_pb2.DeliveryState.ValueType, ...]"
    apply: tuple[events_pb2.Event, ...]
    last: Mapping[str, int]


def plan(last: Mapping[str, int], events: Iterable[events_pb2.Event]) -> Plan:
    """Folds a batch over the last sequence of each key (0 when absent): a key takes 1, 2, 3 … once each, and nothing behind a gap."""
    states: list[events_pb2.DeliveryState.ValueType] = []
    apply: list[events_pb2.Event] = []
    moved: dict[str, int] = {}
    for event in events:
        expected = moved.get(event.key, last.get(event.key, 0)) + 1
        states.append(APPLIED if event.sequence <= expected else WAITING)
        if event.sequence == expected:
            apply.append(event)
            moved[event.key] = expected
    return Plan(tuple(states), tuple(apply), moved)


class EventInbox(events_pb2_grpc.EventInboxServiceServicer):
    """Takes the events this service hears. `handlers` names the effect of each kind."""

    def __init__(self, database: Database, handlers: Mapping[str, Handler], outbox: Outbox, clock: Clock = now) -> None:
        self.database, self.handlers, self.outbox, self.clock = database, handlers, outbox, clock
        self.turn = asyncio.Lock()

    async def prepare(self) -> None:
        """The collection, which a transaction on a shard of its own could not create."""
        await ensure(self.database[COLLECTION])

    async def Deliver(self, request: events_pb2.DeliverRequest, context: Any) -> events_pb2.DeliverResponse:
        events = list(request.events)
        if not request.source or len(events) > BATCH_MAX or any(event.source != request.source for event in events):
            raise Invalid("INVALID_BATCH", f"give a source and at most {BATCH_MAX} events, all of that source", field="events")
        _check_source(request.source, events)
        authorization.current.set(authorization.SYSTEM)
        shares = any(isinstance(self.handlers.get(event.WhichOneof("body") or ""), BatchHandler) for event in events)
        async with self.turn if shares else nullcontext():
            deliveries = await self._together(request.source, events) or await self._singly(request.source, events)
        return events_pb2.DeliverResponse(deliveries=deliveries)

    async def _together(self, source: str, events: Sequence[events_pb2.Event]) -> list[events_pb2.Delivery]:
        """The whole batch in one transaction; nothing when that cannot be."""
        try:
            return await self.database.transact(lambda session: self._apply(session, source, events), attempts_max=GROUP_ATTEMPTS_MAX)
        except Exception as error:
            if _out_of_reach(error):
                raise
            return []

    async def _singly(self, source: str, events: Sequence[events_pb2.Event]) -> list[events_pb2.Delivery]:
        """Each event in its own transaction; one that is not applied holds back the later ones of its key."""
        deliveries: list[events_pb2.Delivery] = []
        held = set[str]()
        for event in events:
            if event.key in held:
                deliveries.append(events_pb2.Delivery(event_id=event.id, state=WAITING, reason="BEHIND_ANOTHER"))
                continue
            delivery = await self._one(source, event)
            deliveries.append(delivery)
            if delivery.state != APPLIED:
                held.add(event.key)
        return deliveries

    async def _one(self, source: str, event: events_pb2.Event) -> events_pb2.Delivery:
        try:
            (delivery,) = await self.database.transact(lambda session: self._apply(session, source, [event]))
            return delivery
        except Refusal as refusal:
            # What may pass by itself is tried again without counting.
            state = WAITING if refusal.retryable else FAILED
            return events_pb2.Delivery(event_id=event.id, state=state, reason=refusal.reason)
        except Exception as error:
            if _out_of_reach(error):
                raise
            bug = ids.new("bug")
            logger().exception("event failed", bug=bug, event_id=event.id, kind=event.WhichOneof("body"), source=source)
            return events_pb2.Delivery(event_id=event.id, state=FAILED, reason=f"INTERNAL {bug}")

    async def _apply(self, session: Session, source: str, events: Sequence[events_pb2.Event]) -> list[events_pb2.Delivery]:
        """Applies events in order within a transaction; raises what the first failing one raises."""
        rows = self.database[COLLECTION].find({"_id": {"$in": sorted({f"{source}:{event.key}" for event in events})}}, session=session)
        last = {row["_id"].removeprefix(f"{source}:"): row["sequence"] async for row in rows}
        planned = plan(last, events)
        if planned.last:
            # First of all, and even if an event has no other effect: of two relays that deliver the same, one conflicts here.
            await self.database[COLLECTION].bulk_write(
                [UpdateOne({"_id": f"{source}:{key}"}, {"$set": {"sequence": n}}, upsert=True) for key, n in planned.last.items()],
                ordered=False,
                session=session,
            )
        for kind, events_of_kind in groupby(planned.apply, lambda event: event.WhichOneof("body") or ""):
            await self._effect(session, kind, list(events_of_kind))
        return [
            events_pb2.Delivery(event_id=event.id, state=state, reason="" if state == APPLIED else "EARLIER_MISSING")
            for event, state in zip(events, planned.states, strict=True)
        ]

    async def _effect(self, session: Session, kind: str, events: Sequence[events_pb2.Event]) -> None:
        handler = self.handlers.get(kind)
        if handler is None:
            # A newer version tells it; the sender keeps it until this one is replaced, too.
            raise Invalid("UNKNOWN_KIND", f"nobody here hears {kind}")
        happened = [(UnitOfWork(session, self._at(event), self.outbox), event) for event in events]
        if isinstance(handler, BatchHandler):
            await handler.effect(happened)
        for unit, event in happened:
            if not isinstance(handler, BatchHandler):
                await handler(unit, event)
            await unit.flush()

    def _at(self, event: events_pb2.Event) -> datetime:
        return event.at.ToDatetime(tzinfo=UTC) if event.HasField("at") else self.clock()


def _check_source(source: str, events: Iterable[events_pb2.Event]) -> None:
    """`Denied` unless `source` itself signed the call, and tells events of this kind at all."""
    if authorization.caller().issuer != source:
        raise Denied("SOURCE_NOT_YOURS", "a service delivers its own events, signed by itself")
    for event in events:
        kind = event.WhichOneof("body")
        if kind and route(kind).publisher != source:
            raise Denied("KIND_NOT_YOURS", f"{kind} is told by {route(kind).publisher}")


def _out_of_reach(error: Exception) -> bool:
    """Whether our own database is what failed: no event is to blame."""
    if isinstance(error, Unavailable):
        return error.reason == "DATABASE_UNAVAILABLE"
    return isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError"))
