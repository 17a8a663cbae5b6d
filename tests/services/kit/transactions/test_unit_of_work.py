"""Tests of the unit of work: a write is atomic with its events and its idempotency record, and runs once per request id."""

import asyncio

import pytest

from quanyu.member.v1.consent_pb2 import SetConsentRequest, SetConsentResponse
from services.kit import clock
from services.kit.errors import Conflict, Invalid, Unavailable
from services.kit.mongo.client import Database
from services.kit.transactions import idempotency
from services.kit.transactions.outbox import DELIVERIES, Outbox
from services.kit.transactions.unit_of_work import TransactionRunner, UnitOfWork
from services.kit.values.event import Event

REPEATS = 50


class ConsumerBound(Event, frozen=True):
    """An event with one subscriber."""

    kind = "consumer_bound"
    consumer_id: str
    brand_id: str = "brd_1"


class CountingWrite:
    """A write that counts its effects and publishes one event each time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        outbox = Outbox(database, "member")
        self.transactions = TransactionRunner(database, outbox, clock.now)

    async def prepare(self) -> None:
        await idempotency.prepare(self.database)
        await self.transactions.outbox.prepare()
        await self.database["effects"].insert_one({"_id": "count", "n": 0})

    async def run(self, request: SetConsentRequest, refusal: Exception | None = None) -> SetConsentResponse:
        async def body(uow: UnitOfWork) -> SetConsentResponse:
            await self.database["effects"].update_one({"_id": "count"}, {"$inc": {"n": 1}}, session=uow.session)
            uow.publish(ConsumerBound(request.consumer_id))
            if refusal:
                raise refusal
            return SetConsentResponse()

        return await self.transactions.run(request, SetConsentResponse, body)

    async def count(self) -> int:
        document = await self.database["effects"].find_one({"_id": "count"})
        return int(document["n"])

    async def events(self) -> int:
        return int(await self.database[DELIVERIES].count_documents({}))


@pytest.fixture
async def write(database: Database) -> CountingWrite:
    write = CountingWrite(database)
    await write.prepare()
    return write


def request(request_id: str = "r1", consumer_id: str = "con_1") -> SetConsentRequest:
    return SetConsentRequest(request_id=request_id, consumer_id=consumer_id)


async def test_concurrent_repeats_have_one_effect_and_answer(write: CountingWrite) -> None:
    answers = await asyncio.gather(*(write.run(request()) for _ in range(REPEATS)))
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert await write.count() == 1
    assert await write.events() == 1


async def test_same_request_id_with_another_body_is_refused(write: CountingWrite) -> None:
    await write.run(request())
    with pytest.raises(Conflict) as caught:
        await write.run(request(consumer_id="con_2"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await write.count() == 1


async def test_refusal_changes_nothing_and_is_replayed(write: CountingWrite) -> None:
    refusal = Conflict("TASK_CLOSED", "It is done.", task_id="tsk_1")
    for attempt in (refusal, None):
        with pytest.raises(Conflict) as caught:
            await write.run(request(), attempt)
        assert (caught.value.reason, caught.value.metadata) == ("TASK_CLOSED", {"task_id": "tsk_1"})
    assert (await write.count(), await write.events()) == (0, 0)


async def test_retryable_refusal_is_not_recorded(write: CountingWrite) -> None:
    with pytest.raises(Unavailable):
        await write.run(request(), Unavailable("SERVICE_UNAVAILABLE"))
    await write.run(request())
    assert await write.count() == 1


async def test_unknown_exception_changes_nothing(write: CountingWrite) -> None:
    with pytest.raises(ZeroDivisionError):
        await write.run(request(), ZeroDivisionError())
    assert (await write.count(), await write.events()) == (0, 0)
    await write.run(request())
    assert (await write.count(), await write.events()) == (1, 1)


async def test_concurrent_different_requests_all_take_effect(write: CountingWrite) -> None:
    await asyncio.gather(*(write.run(request(f"r{number}")) for number in range(20)))
    assert await write.count() == 20
    assert await write.events() == 20


@pytest.mark.parametrize("request_id", ["", "x" * 129])
async def test_write_without_request_id_is_refused(write: CountingWrite, request_id: str) -> None:
    with pytest.raises(Invalid):
        await write.run(request(request_id))


async def test_cancelled_write_releases_its_locks(write: CountingWrite) -> None:
    entered = asyncio.Event()

    async def body(uow: UnitOfWork) -> SetConsentResponse:
        await write.database["effects"].update_one({"_id": "count"}, {"$inc": {"n": 1}}, session=uow.session)
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(write.transactions.run(request(), SetConsentResponse, body))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await write.run(request())
    assert await write.count() == 1
