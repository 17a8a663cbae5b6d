"""The relay: pushes what waits in the outbox to its subscribers, one lease holder per subscriber and shard.

It is woken by the change stream and looks by itself now and then. It keeps no cursor over what was delivered, only where its round
over the keys stands: rows are deleted once applied, so whatever is there is still to be done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from prometheus_client import Gauge

from quanyu.events.v1 import events_pb2, events_pb2_grpc
from services.kit.backoff import Backoff
from services.kit.clock import Clock, now
from services.kit.errors import Refusal
from services.kit.events.deliveries import ATTEMPTS_MAX, RETRY, Deliveries, Row
from services.kit.mongo.change_streams import ChangeStreamHub, WatchedCollection
from services.kit.mongo.client import Database
from services.kit.mongo.lease import TTL_SECONDS, Lease
from services.kit.observability.logs import logger
from services.kit.transactions.outbox import DELIVERIES, SHARDS, Outbox

WATCHED = WatchedCollection(DELIVERIES, kinds=("insert", "update"), where={"fullDocument.wakes": {"$ne": False}})
"""The first rows of each transaction and replayed ones; which pump they belong to stands in their ids."""
BATCH_MAX = 200
RETRIES_MAX = 50
"""Rows that failed before go in batches of their own, so that they do not spoil those that did not."""
LOOK_SECONDS = 5.0
"""Without being woken, a pump looks this often."""
DELIVER_SECONDS_MAX = 30.0
UNREACHED = Backoff(first_seconds=0.1, cap_seconds=10.0)
METER_SECONDS = 10.0

LABELS = ["source", "subscriber", "shard"]
PENDING_EVENTS = Gauge("quanyu_events_pending", "Events told and not yet applied, parked ones left out.", LABELS)
PARKED_EVENTS = Gauge("quanyu_events_parked", "Events that failed too often and wait for a person.", LABELS)
OLDEST_SECONDS = Gauge("quanyu_events_oldest_age_seconds", "Age of the oldest event not yet applied, parked ones included.", LABELS)

Deliver = Callable[[events_pb2.DeliverRequest], Awaitable[events_pb2.DeliverResponse]]
APPLIED, FAILED = events_pb2.DELIVERY_STATE_APPLIED, events_pb2.DELIVERY_STATE_FAILED


class Relay:
    """Relays one service's events to the subscribers it has channels to. Any number of replicas may run it."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, grpc.aio.Channel],
        *,
        source: str,
        watch: ChangeStreamHub,
        clock: Clock = now,
        lease_seconds: float = TTL_SECONDS,
        attempts_max: int = ATTEMPTS_MAX,
        retry: Backoff = RETRY,
    ) -> None:
        self.database, self.source, self.watch, self.lease_seconds = database, source, watch, lease_seconds
        self.pumps = {
            (subscriber, shard): ShardRelay(
                Deliveries(database, subscriber, shard, attempts_max=attempts_max, retry=retry), _sink(channel), source=source, clock=clock
            )
            for subscriber, channel in channels.items()
            for shard in range(SHARDS)
        }

    async def prepare(self) -> None:
        """The indexes the relay reads by."""
        await Outbox(self.database, self.source).prepare()

    async def run(self) -> None:
        """Relays until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="relay-watch")
            for (subscriber, shard), pump in self.pumps.items():
                lease = Lease(self.database, f"relay:{subscriber}:{shard}", ttl_seconds=self.lease_seconds)
                tasks.create_task(lease.keep(partial(pump.run, lease)), name=f"relay-{subscriber}-{shard}")

    async def _listen(self) -> None:
        """Wakes the pump whose row was written. Whatever happens to the watch, the pumps look by themselves."""
        while True:
            try:
                async with self.watch.subscribe(DELIVERIES) as changes:
                    self._wake_all()
                    async for change in changes:
                        subscriber, shard, _ = change.id.split(":")
                        if pump := self.pumps.get((subscriber, int(shard))):
                            pump.wake.set()
            except Refusal as refusal:
                logger().warning("relay not woken", reason=refusal.reason)
            await asyncio.sleep(LOOK_SECONDS)

    def _wake_all(self) -> None:
        for pump in self.pumps.values():
            pump.wake.set()


class ShardRelay:
    """Relays one shard of one subscriber's events while its lease is held, one call at a time."""

    def __init__(self, deliveries: Deliveries, deliver: Deliver, *, source: str, clock: Clock) -> None:
        self.deliveries, self.deliver, self.source, self.clock = deliveries, deliver, source, clock
        self.wake = asyncio.Event()
        self.size = BATCH_MAX
        self._after = ""
        self._failures = 0
        self._labels = (source, deliveries.subscriber, str(deliveries.shard))

    async def run(self, lease: Lease) -> None:
        """Relays until the lease is lost. Nothing that goes wrong ends it; it waits longer each time instead."""
        metering = asyncio.create_task(self._meter())
        # A holder that was killed may have left a transaction open on these rows.
        await self.deliveries.database.release_orphans()
        try:
            while lease.held:
                self.wake.clear()
                moved = [await self._safely(self._again(lease)), await self._safely(self._onward(lease))]
                if not any(moved):
                    await self._safely(self._rest())
        finally:
            metering.cancel()
            for gauge in (PENDING_EVENTS, PARKED_EVENTS, OLDEST_SECONDS):
                gauge.remove(*self._labels)

    async def _safely(self, step: Awaitable[bool]) -> bool:
        """Whether the step had anything to do. After a failure it has, later."""
        try:
            return await step
        except Exception as error:
            self._failures += 1
            # The call may have failed for its size: half of it goes next, and the round has moved on to other keys.
            self.size = max(1, self.size // 2)
            logger().warning("events not delivered", subscriber=self.deliveries.subscriber, failures=self._failures, error=_name(error))
            await asyncio.sleep(UNREACHED.seconds(self._failures))
            return True

    async def _again(self, lease: Lease) -> bool:
        """Sends what failed before and is due."""
        rows = await self.deliveries.due(self.clock(), min(RETRIES_MAX, self.size))
        await self._send(rows, lease)
        return bool(rows)

    async def _onward(self, lease: Lease) -> bool:
        """Sends the next rows of the round."""
        rows = await self.deliveries.pending(self._after, self.size)
        if rows:
            self._after = rows[-1].key
            await self._send(await self._free(rows), lease)
        return bool(rows)

    async def _free(self, rows: Sequence[Row]) -> list[Row]:
        """Those rows whose key is not held back; the others wait from now on."""
        held = await self.deliveries.held(row.key for row in rows)
        behind = [row for row in rows if row.key in held]
        if behind:
            await self.deliveries.put_behind(behind)
        return [row for row in rows if row.key not in held]

    async def _send(self, rows: Sequence[Row], lease: Lease) -> None:
        if not rows or not lease.held:
            return
        request = events_pb2.DeliverRequest(source=self.source, events=[row.message() for row in rows])
        response = await self.deliver(request)
        if [each.event_id for each in response.deliveries] != [event.id for event in request.events]:
            raise ValueError(f"{self.deliveries.subscriber} answered other events than it was sent")
        self._failures, self.size = 0, min(BATCH_MAX, self.size * 2)
        await self._settle(rows, response.deliveries)

    async def _settle(self, rows: Sequence[Row], answers: Sequence[events_pb2.Delivery]) -> None:
        """Writes down what became of each row. Only the first of a key that was not applied is held back; that holds the others."""
        applied, put_off, seen = [], [], set[str]()
        for row, answer in zip(rows, answers, strict=True):
            if answer.state == APPLIED:
                applied.append(row)
            elif row.key not in seen:
                put_off.append((row, answer.reason, answer.state == FAILED))
                seen.add(row.key)
        await self.deliveries.applied(applied)
        for row in await self.deliveries.put_off(put_off, self.clock()):
            logger().error("event parked", subscriber=self.deliveries.subscriber, row=row.id)

    async def _rest(self) -> bool:
        """Waits for a wake, the next row that is due, or LOOK_SECONDS."""
        seconds = LOOK_SECONDS
        if due := await self.deliveries.next_due():
            seconds = min(seconds, (due - self.clock()).total_seconds())
        # Not wait_for: in Python 3.11 it loses a cancellation that comes together with what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        return self.wake.is_set()

    async def _meter(self) -> None:
        while True:
            try:
                waiting, parked, oldest = await self.deliveries.counts()
            except Exception as error:
                logger().warning("events not counted", error=_name(error))
            else:
                PENDING_EVENTS.labels(*self._labels).set(waiting)
                PARKED_EVENTS.labels(*self._labels).set(parked)
                OLDEST_SECONDS.labels(*self._labels).set((self.clock() - oldest).total_seconds() if oldest else 0)
            await asyncio.sleep(METER_SECONDS)


def _sink(channel: grpc.aio.Channel) -> Deliver:
    stub = events_pb2_grpc.EventInboxServiceStub(channel)

    async def deliver(request: events_pb2.DeliverRequest) -> Any:
        return await stub.Deliver(request, timeout=DELIVER_SECONDS_MAX)

    return deliver


def _name(error: Exception) -> str:
    if isinstance(error, Refusal):
        return error.reason
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
