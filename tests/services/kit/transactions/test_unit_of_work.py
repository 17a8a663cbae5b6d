"""One ordinary write: atomic with its events and its idempotency record, once by its request id."""

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

TWINS = 50


class ConsumerBound(Event, frozen=True):
    """An event that is heard by one service."""

    kind = "consumer_bound"
    consumer_id: str
    brand_id: str = "brd_1"


class Writes:
    """A write that counts how often it took effect and tells one event each time."""

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
        row = await self.database["effects"].find_one({"_id": "count"})
        return int(row["n"])

    async def events(self) -> int:
        return int(await self.database[DELIVERIES].count_documents({}))


@pytest.fixture
async def writes(database: Database) -> Writes:
    writes = Writes(database)
    await writes.prepare()
    return writes


def request(request_id: str = "r1", consumer_id: str = "con_1") -> SetConsentRequest:
    return SetConsentRequest(request_id=request_id, consumer_id=consumer_id)


async def test_twins_of_one_request_have_one_effect_and_equal_answers(writes: Writes) -> None:
    answers = await asyncio.gather(*(writes.run(request()) for _ in range(TWINS)))
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert await writes.count() == 1
    assert await writes.events() == 1


async def test_the_same_id_with_another_body_is_refused(writes: Writes) -> None:
    await writes.run(request())
    with pytest.raises(Conflict) as caught:
        await writes.run(request(consumer_id="con_2"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await writes.count() == 1


async def test_a_refusal_changes_nothing_and_is_heard_again(writes: Writes) -> None:
    refusal = Conflict("TASK_CLOSED", "it is done", task_id="tsk_1")
    for attempt in (refusal, None):
        with pytest.raises(Conflict) as caught:
            await writes.run(request(), attempt)
        assert (caught.value.reason, caught.value.metadata) == ("TASK_CLOSED", {"task_id": "tsk_1"})
    assert (await writes.count(), await writes.events()) == (0, 0)


async def test_a_passing_failure_is_tried_again(writes: Writes) -> None:
    with pytest.raises(Unavailable):
        await writes.run(request(), Unavailable("SERVICE_UNAVAILABLE"))
    await writes.run(request())
    assert await writes.count() == 1


async def test_a_bug_changes_nothing(writes: Writes) -> None:
    with pytest.raises(ZeroDivisionError):
        await writes.run(request(), ZeroDivisionError())
    assert (await writes.count(), await writes.events()) == (0, 0)
    await writes.run(request())
    assert (await writes.count(), await writes.events()) == (1, 1)


async def test_concurrent_different_requests_all_take_effect(writes: Writes) -> None:
    await asyncio.gather(*(writes.run(request(f"r{number}")) for number in range(20)))
    assert await writes.count() == 20
    assert await writes.events() == 20


@pytest.mark.parametrize("request_id", ["", "x" * 129])
async def test_a_write_needs_a_request_id(writes: Writes, request_id: str) -> None:
    with pytest.raises(Invalid):
        await writes.run(request(request_id))


async def test_a_cancelled_write_leaves_nothing_locked(writes: Writes) -> None:
    entered = asyncio.Event()

    async def body(uow: UnitOfWork) -> SetConsentResponse:
        await writes.database["effects"].update_one({"_id": "count"}, {"$inc": {"n": 1}}, session=uow.session)
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(writes.transactions.run(request(), SetConsentResponse, body))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writes.run(request())
    assert await writes.count() == 1
