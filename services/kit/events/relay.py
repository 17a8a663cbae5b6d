"""Event relay: delivers the events of the outbox to their subscribers, with one lease holder per subscriber and shard.

The change stream wakes it, and it polls every POLL_SECONDS. It has no cursor over delivered events: applied events are deleted, so each
existing document is still to be delivered. It only remembers the last key, so that all keys get their turn.
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
from services.kit.events.deliveries import ATTEMPTS_MAX, RETRY, DeliveryQueue, QueuedEvent
from services.kit.mongo.change_streams import ChangeStreamHub, WatchedCollection
from services.kit.mongo.client import Database
from services.kit.mongo.lease import TTL_SECONDS, Lease
from services.kit.observability.logs import logger
from services.kit.transactions.outbox import DELIVERIES, SHARDS, Outbox

WATCHED_DELIVERIES = WatchedCollection(DELIVERIES, kinds=("insert", "update"), where={"fullDocument.wakes": {"$ne": False}})
"""The relay watches the first event of each transaction for a shard, and replayed events. Their ids name the shard."""
BATCH_MAX = 200
"""A call delivers at most this many events."""
RETRIES_MAX = 50
"""A call delivers at most this many failed events. They have calls of their own, so that they do not delay the others."""
POLL_SECONDS = 5.0
"""Without a wake-up, a shard relay reads its queue this often."""
DELIVER_SECONDS_MAX = 30.0
"""A call to a subscriber has this deadline."""
FAILURE_BACKOFF = Backoff(first_seconds=0.1, cap_seconds=10.0)
"""The wait after a failed call or read."""
METRICS_SECONDS = 10.0
"""The gauges are updated this often."""

LABELS = ["source", "subscriber", "shard"]
PENDING_EVENTS = Gauge("quanyu_events_pending", "Events that are published but not yet applied, without parked ones.", LABELS)
PARKED_EVENTS = Gauge("quanyu_events_parked", "Events that failed too often and wait for an operator.", LABELS)
OLDEST_SECONDS = Gauge(
    "quanyu_events_oldest_age_seconds", "Age of the oldest event that is not yet applied, including parked ones.", LABELS
)

Deliver = Callable[[events_pb2.DeliverRequest], Awaitable[events_pb2.DeliverResponse]]
APPLIED, FAILED = events_pb2.DELIVERY_STATE_APPLIED, events_pb2.DELIVERY_STATE_FAILED


class Relay:
    """Relays the events of one service to the subscribers with a channel. Any number of replicas may run it."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, grpc.aio.Channel],
        *,
        source: str,
        change_streams: ChangeStreamHub,
        clock: Clock = now,
        lease_seconds: float = TTL_SECONDS,
        attempts_max: int = ATTEMPTS_MAX,
        retry: Backoff = RETRY,
    ) -> None:
        self.database, self.source, self.change_streams, self.lease_seconds = database, source, change_streams, lease_seconds
        self.shard_relays = {
            (subscriber, shard): ShardRelay(
                DeliveryQueue(database, subscriber, shard, attempts_max=attempts_max, retry=retry),
                deliver_over(channel),
                source=source,
                clock=clock,
            )
            for subscriber, channel in channels.items()
            for shard in range(SHARDS)
        }

    async def prepare(self) -> None:
        """Creates the indexes that the relay reads by."""
        await Outbox(self.database, self.source).prepare()

    async def run(self) -> None:
        """Relays until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake_on_changes(), name="relay-watch")
            for (subscriber, shard), shard_relay in self.shard_relays.items():
                lease = Lease(self.database, f"relay:{subscriber}:{shard}", ttl_seconds=self.lease_seconds)
                tasks.create_task(lease.run_while_held(partial(shard_relay.run, lease)), name=f"relay-{subscriber}-{shard}")

    async def _wake_on_changes(self) -> None:
        """Wakes the shard relay of each written event. If the change stream fails, the shard relays still poll."""
        while True:
            try:
                async with self.change_streams.subscribe(DELIVERIES) as changes:
                    self._wake_all()
                    async for change in changes:
                        subscriber, shard, _ = change.id.split(":")
                        if shard_relay := self.shard_relays.get((subscriber, int(shard))):
                            shard_relay.wake.set()
            except Refusal as refusal:
                logger().warning("relay cannot watch changes", reason=refusal.reason)
            await asyncio.sleep(POLL_SECONDS)

    def _wake_all(self) -> None:
        for shard_relay in self.shard_relays.values():
            shard_relay.wake.set()


class ShardRelay:
    """Relays the events of one shard of a subscriber while its lease is held, one call at a time."""

    def __init__(self, queue: DeliveryQueue, deliver: Deliver, *, source: str, clock: Clock) -> None:
        self.queue, self.deliver, self.source, self.clock = queue, deliver, source, clock
        self.wake = asyncio.Event()
        self.batch_size = BATCH_MAX
        self._last_key = ""
        self._failures = 0
        self._labels = (source, queue.subscriber, str(queue.shard))

    async def run(self, lease: Lease) -> None:
        """Relays until the lease is lost. A failure does not end it; the wait grows with each failure in a row."""
        metrics = asyncio.create_task(self._update_metrics())
        # A killed lease holder may have left a transaction open on these documents.
        await self.queue.database.release_orphans()
        try:
            while lease.is_held:
                self.wake.clear()
                progress = [await self._run_step(self._send_due(lease)), await self._run_step(self._send_pending(lease))]
                if not any(progress):
                    await self._run_step(self._wait())
        finally:
            metrics.cancel()
            for gauge in (PENDING_EVENTS, PARKED_EVENTS, OLDEST_SECONDS):
                gauge.remove(*self._labels)

    async def _run_step(self, step: Awaitable[bool]) -> bool:
        """Runs a step; True if it had work or failed. After a failure it waits."""
        try:
            return await step
        except Exception as error:
            self._failures += 1
            # The call may have failed because of its size: the next one has half of it, and continues with the following keys.
            self.batch_size = max(1, self.batch_size // 2)
            logger().warning("events not delivered", subscriber=self.queue.subscriber, failures=self._failures, error=_error_name(error))
            await asyncio.sleep(FAILURE_BACKOFF.seconds(self._failures))
            return True

    async def _send_due(self, lease: Lease) -> bool:
        """Sends the failed events whose due time has come."""
        events = await self.queue.find_due(self.clock(), min(RETRIES_MAX, self.batch_size))
        await self._send(events, lease)
        return bool(events)

    async def _send_pending(self, lease: Lease) -> bool:
        """Sends the pending events of the next keys."""
        events = await self.queue.find_pending(self._last_key, self.batch_size)
        if events:
            self._last_key = events[-1].key
            await self._send(await self._exclude_held(events), lease)
        return bool(events)

    async def _exclude_held(self, events: Sequence[QueuedEvent]) -> list[QueuedEvent]:
        """Returns the events whose key is not held; marks the others as waiting."""
        held_keys = await self.queue.find_held_keys(event.key for event in events)
        waiting = [event for event in events if event.key in held_keys]
        if waiting:
            await self.queue.mark_waiting(waiting)
        return [event for event in events if event.key not in held_keys]

    async def _send(self, events: Sequence[QueuedEvent], lease: Lease) -> None:
        if not events or not lease.is_held:
            return
        request = events_pb2.DeliverRequest(source=self.source, events=[event.to_message() for event in events])
        response = await self.deliver(request)
        if [delivery.event_id for delivery in response.deliveries] != [event.id for event in request.events]:
            raise ValueError(f"The response of {self.queue.subscriber} is about other events than the request. Check its version.")
        self._failures, self.batch_size = 0, min(BATCH_MAX, self.batch_size * 2)
        await self._record_results(events, response.deliveries)

    async def _record_results(self, events: Sequence[QueuedEvent], results: Sequence[events_pb2.Delivery]) -> None:
        """Records the result of each event. Of a key only the first event that was not applied is held; it holds the later ones."""
        applied, postponed, held_keys = [], [], set[str]()
        for event, result in zip(events, results, strict=True):
            if result.state == APPLIED:
                applied.append(event)
            elif event.key not in held_keys:
                postponed.append((event, result.reason, result.state == FAILED))
                held_keys.add(event.key)
        await self.queue.delete_applied(applied)
        for event in await self.queue.postpone(postponed, self.clock()):
            logger().error("event parked", subscriber=self.queue.subscriber, delivery=event.id)

    async def _wait(self) -> bool:
        """Waits for a wake-up, the next due time, or POLL_SECONDS; True after a wake-up."""
        seconds = POLL_SECONDS
        if due := await self.queue.find_next_due_time():
            seconds = min(seconds, (due - self.clock()).total_seconds())
        # Not wait_for: in Python 3.11 it loses a cancellation that coincides with the wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        return self.wake.is_set()

    async def _update_metrics(self) -> None:
        while True:
            try:
                unparked, parked, oldest = await self.queue.count()
            except Exception as error:
                logger().warning("events not counted", error=_error_name(error))
            else:
                PENDING_EVENTS.labels(*self._labels).set(unparked)
                PARKED_EVENTS.labels(*self._labels).set(parked)
                OLDEST_SECONDS.labels(*self._labels).set((self.clock() - oldest).total_seconds() if oldest else 0)
            await asyncio.sleep(METRICS_SECONDS)


def deliver_over(channel: grpc.aio.Channel) -> Deliver:
    stub = events_pb2_grpc.EventInboxServiceStub(channel)

    async def deliver(request: events_pb2.DeliverRequest) -> Any:
        return await stub.Deliver(request, timeout=DELIVER_SECONDS_MAX)

    return deliver


def _error_name(error: Exception) -> str:
    if isinstance(error, Refusal):
        return error.reason
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
