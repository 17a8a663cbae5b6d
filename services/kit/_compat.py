"""`asyncio.wait_for` of Python 3.12 for Python 3.11.

On 3.11 it loses a cancellation that arrives together with the awaited result (bpo-42130). PyMongo's asyncio client uses it for each
command. Up to one in three cancelled operations continued, and with them work without a lease and processes that did not stop.
"""

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def wait_for(awaitable: Awaitable[Result], timeout: float | None) -> Result:
    """Returns the result of `awaitable`; TimeoutError after `timeout` seconds. A cancellation is never lost."""
    async with asyncio.timeout(timeout):
        return await awaitable


def patch_wait_for() -> None:
    """Replaces `wait_for` of 3.11 before a driver imports it. Changes nothing from 3.12 on."""
    if sys.version_info < (3, 12):
        vars(asyncio)["wait_for"] = vars(asyncio.tasks)["wait_for"] = wait_for
