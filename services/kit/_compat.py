"""`asyncio.wait_for` as Python 3.12 has it, on 3.11.

On 3.11 it loses a cancellation that comes together with the result it waits for (bpo-42130). PyMongo's asyncio client sends every command
by it: up to one in three cancelled operations went on, and with them work whose lease had ended and processes that did not stop.
"""

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def wait_for(awaitable: Awaitable[Result], timeout: float | None) -> Result:
    """The result of `awaitable`; TimeoutError after `timeout` seconds. A cancellation is never lost."""
    async with asyncio.timeout(timeout):
        return await awaitable


def mend() -> None:
    """Puts this `wait_for` in the place of 3.11's, before a driver takes that. Changes nothing from 3.12 on."""
    if sys.version_info < (3, 12):
        vars(asyncio)["wait_for"] = vars(asyncio.tasks)["wait_for"] = wait_for
