"""Deadlines: an operation that takes too long gets 504, and a cancelled one is not taken for it."""

import asyncio
from typing import Any

import pytest

from gateway.limits.deadline import Deadline
from tests.gateway.conftest import Open


async def never_ends() -> None:
    await asyncio.Event().wait()


async def test_operation_after_its_deadline_is_answered_with_504(open_gateway: Open) -> None:
    gateway = await open_gateway(deadline_seconds=0.2)

    async def never_answers(request: Any) -> Any:
        await asyncio.Event().wait()

    gateway.app.state.clients.call = never_answers
    response = await gateway.post({"query": '{ brand(id: "brd_a") { id } }'})
    assert response.status_code == 504
    (error,) = response.json()["errors"]
    assert error["extensions"] == {"code": "DEADLINE_EXCEEDED", "retryable": True, "id": error["extensions"]["id"]}
    assert "data" not in response.json()


async def test_deadline_raises_timeout_for_expired_tasks_only() -> None:
    deadline = Deadline(0.05)
    with pytest.raises(TimeoutError):
        await deadline.run(never_ends())
    task = asyncio.create_task(deadline.run(never_ends()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    both = asyncio.create_task(deadline.run(never_ends()))
    await asyncio.sleep(0)
    deadline.expires_at[both] = 0.0
    deadline._expire(both.get_loop())
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert await deadline.run(asyncio.sleep(0, "done")) == "done"
    results = await asyncio.gather(*(deadline.run(never_ends()) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [TimeoutError] * 3
    assert not deadline.expires_at
    assert not deadline.expired
