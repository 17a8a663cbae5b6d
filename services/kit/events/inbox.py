"""Event inbox, the subscriber's side: applies events in the transaction of their effect, exactly once and in order for each key.

A batch is one transaction with the last sequences, the effects and the published events of all its events. If it fails, its events are
applied one by one, so that only the key of the failing event is held back.
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
from services.kit.mongo.client import Database, Session, ensure_indexes
from services.kit.observability.logs import logger
from services.kit.security.caller import SYSTEM, caller_context, current_caller
from services.kit.transactions.outbox import Outbox, route_of
from services.kit.transactions.unit_of_work import UnitOfWork

COLLECTION = "inbox"
"""The last applied sequence of each source and key is {_id: "source:key", sequence}."""
BATCH_MAX = 200
"""A call delivers at most this many events."""
GROUP_ATTEMPTS_MAX = 4
"""A batch that meets write conflicts is tried this many times; then its events are applied one by one."""

Handler = Callable[[UnitOfWork, events_pb2.Event], Awaitable[None]]
"""The effect of one kind of event. It writes with `uow.session` only; `uow.at` is the time of the event."""

EventInUnit = tuple[UnitOfWork, events_pb2.Event]


class BatchHandler:
    """A handler that takes consecutive events of one kind in one call, in order, so that shared documents are read and written once.

    All events share the transaction; each has its own unit of work. If the effect raises, the events are applied one by one.
    A process applies one batch with such events at a time. Batches often share documents, and of two transactions that write one document
    the second is repeated as a whole.
    """

    def __init__(self, effect: Callable[[Sequence[EventInUnit]], Awaitable[None]]) -> None:
        self.effect = effect

    async def __call__(self, uow: UnitOfWork, event: events_pb2.Event) -> None:
        await self.effect([(uow, event)])


APPLIED, FAILED, WAITING = events_pb2.DELIVERY_STATE_APPLIED, events_pb2.DELIVERY_STATE_FAILED, events_pb2.DELIVERY_STATE_WAITING


class Plan(Struct, frozen=True):
    """The plan for a batch: the state of each event in order, the events to apply, and the last sequences afterwards."""

    states: "tuple[events_pb2.DeliveryState.ValueType, ...]"
    apply: tuple[events_pb2.Event, ...]
    last: Mapping[str, int]


def plan(last: Mapping[str, int], events: Iterable[events_pb2.Event]) -> Plan:
    """Plans a batch from the last sequence of each key (0 if absent). A key applies 1, 2, 3 … once each, and nothing after a gap."""
    states: list[events_pb2.DeliveryState.ValueType] = []
    apply: list[events_pb2.Event] = []
    advanced: dict[str, int] = {}
    for event in events:
        expected = advanced.get(event.key, last.get(event.key, 0)) + 1
        states.append(APPLIED if event.sequence <= expected else WAITING)
        if event.sequence == expected:
            apply.append(event)
            advanced[event.key] = expected
    return Plan(tuple(states), tuple(apply), advanced)


class EventInbox(events_pb2_grpc.EventInboxServiceServicer):
    """Receives the events that this service subscribes to. `handlers` maps each kind to its effect."""

    def __init__(self, database: Database, handlers: Mapping[str, Handler], outbox: Outbox, clock: Clock = now) -> None:
        self.database, self.handlers, self.outbox, self.clock = database, handlers, outbox, clock
        self.batch_lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Creates the collection, since a transaction over several shards cannot create one."""
        await ensure_indexes(self.database[COLLECTION])

    async def Deliver(self, request: events_pb2.DeliverRequest, context: Any) -> events_pb2.DeliverResponse:
        events = list(request.events)
        if not request.source or len(events) > BATCH_MAX or any(event.source != request.source for event in events):
            raise Invalid(
                "INVALID_BATCH", f"`events` must have at most {BATCH_MAX} entries, all of `source`. Split the batch.", field="events"
            )
        _check_source(request.source, events)
        caller_context.set(SYSTEM)
        has_batch_handler = any(isinstance(self.handlers.get(event.WhichOneof("body") or ""), BatchHandler) for event in events)
        async with self.batch_lock if has_batch_handler else nullcontext():
            deliveries = await self._apply_batch(request.source, events) or await self._apply_each(request.source, events)
        return events_pb2.DeliverResponse(deliveries=deliveries)

    async def _apply_batch(self, source: str, events: Sequence[events_pb2.Event]) -> list[events_pb2.Delivery]:
        """Applies the batch in one transaction; returns an empty list if that fails."""
        try:
            return await self.database.transact(
                lambda session: self._apply_in_transaction(session, source, events), attempts_max=GROUP_ATTEMPTS_MAX
            )
        except Exception as error:
            if _is_database_failure(error):
                raise
            return []

    async def _apply_each(self, source: str, events: Sequence[events_pb2.Event]) -> list[events_pb2.Delivery]:
        """Applies each event in its own transaction. An event that is not applied holds back the later ones of its key."""
        deliveries: list[events_pb2.Delivery] = []
        held_keys = set[str]()
        for event in events:
            if event.key in held_keys:
                deliveries.append(events_pb2.Delivery(event_id=event.id, state=WAITING, reason="BEHIND_ANOTHER"))
                continue
            delivery = await self._apply_one(source, event)
            deliveries.append(delivery)
            if delivery.state != APPLIED:
                held_keys.add(event.key)
        return deliveries

    async def _apply_one(self, source: str, event: events_pb2.Event) -> events_pb2.Delivery:
        try:
            (delivery,) = await self.database.transact(lambda session: self._apply_in_transaction(session, source, [event]))
            return delivery
        except Refusal as refusal:
            # A retryable refusal does not count as a failure.
            state = WAITING if refusal.retryable else FAILED
            return events_pb2.Delivery(event_id=event.id, state=state, reason=refusal.reason)
        except Exception as error:
            if _is_database_failure(error):
                raise
            bug = ids.new("bug")
            logger().exception("event failed", bug=bug, event_id=event.id, kind=event.WhichOneof("body"), source=source)
            return events_pb2.Delivery(event_id=event.id, state=FAILED, reason=f"INTERNAL {bug}")

    async def _apply_in_transaction(self, session: Session, source: str, events: Sequence[events_pb2.Event]) -> list[events_pb2.Delivery]:
        """Applies events in order within a transaction; raises the exception of the first event that fails."""
        ids = sorted({f"{source}:{event.key}" for event in events})
        documents = self.database[COLLECTION].find({"_id": {"$in": ids}}, session=session)
        last = {document["_id"].removeprefix(f"{source}:"): document["sequence"] async for document in documents}
        planned = plan(last, events)
        if planned.last:
            # This write comes first, also for events without another effect: if two relays deliver the same events, one conflicts here.
            await self.database[COLLECTION].bulk_write(
                [UpdateOne({"_id": f"{source}:{key}"}, {"$set": {"sequence": n}}, upsert=True) for key, n in planned.last.items()],
                ordered=False,
                session=session,
            )
        for kind, events_of_kind in groupby(planned.apply, lambda event: event.WhichOneof("body") or ""):
            await self._run_handler(session, kind, list(events_of_kind))
        return [
            events_pb2.Delivery(event_id=event.id, state=state, reason="" if state == APPLIED else "EARLIER_MISSING")
            for event, state in zip(events, planned.states, strict=True)
        ]

    async def _run_handler(self, session: Session, kind: str, events: Sequence[events_pb2.Event]) -> None:
        handler = self.handlers.get(kind)
        if handler is None:
            # A newer version publishes it; the publisher keeps it until this process is upgraded, too.
            raise Invalid("UNKNOWN_KIND", f"No handler for events of kind {kind}. Upgrade this service.")
        units = [(UnitOfWork(session, self._time_of(event), self.outbox), event) for event in events]
        if isinstance(handler, BatchHandler):
            await handler.effect(units)
        for uow, event in units:
            if not isinstance(handler, BatchHandler):
                await handler(uow, event)
            await uow.flush()

    def _time_of(self, event: events_pb2.Event) -> datetime:
        return event.at.ToDatetime(tzinfo=UTC) if event.HasField("at") else self.clock()


def _check_source(source: str, events: Iterable[events_pb2.Event]) -> None:
    """Raises `Denied` unless `source` itself has signed the call and publishes events of these kinds."""
    if current_caller().issuer != source:
        raise Denied("SOURCE_NOT_YOURS", "The caller is not the source of these events. Deliver your own events only.")
    for event in events:
        kind = event.WhichOneof("body")
        if kind and route_of(kind).publisher != source:
            raise Denied(
                "KIND_NOT_YOURS", f"Events of kind {kind} are published by {route_of(kind).publisher}. Deliver your own kinds only."
            )


def _is_database_failure(error: Exception) -> bool:
    """True if the database of this service failed, so that no event is the cause."""
    if isinstance(error, Unavailable):
        return error.reason == "DATABASE_UNAVAILABLE"
    return isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError"))
