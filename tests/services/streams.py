"""A client that reads a streaming rpc in the background while a test makes changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.kit.errors import Refusal
from services.kit.rpc.channel import CURSOR_KEY, iterate_responses

WAIT_SECONDS_MAX = 20.0


class StreamReader:
    """The `responses` so far, the `cursor` to resume from, and the `refusal` that ended the stream, if any."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, Any], after: str) -> None:
        self.call, self.cursor = call, after
        self.responses: list[Any] = []
        self.refusal: Refusal | None = None
        self._received = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            self.cursor = dict(await self.call.initial_metadata()).get(CURSOR_KEY, self.cursor)
            self._received.set()
            async for response in iterate_responses(self.call):
                self.responses.append(response)
                self.cursor = response.cursor
                self._received.set()
        except Refusal as refusal:
            self.refusal = refusal
        finally:
            self._received.set()

    async def expect_responses(self, number: int) -> list[Any]:
        """Waits for this many responses, and asserts that there are no more."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(self.responses) < number and not self.reading.done():
                self._received.clear()
                await self._received.wait()
        assert len(self.responses) == number, (self.responses, self.refusal)
        return self.responses

    async def wait_until_started(self) -> None:
        """Waits until a stream with cursors has started; raises its refusal."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not self.cursor and not self.reading.done():
                self._received.clear()
                await self._received.wait()
        if self.refusal:
            raise self.refusal

    async def wait_until_ended(self) -> Refusal | None:
        """Waits for the end of the stream; returns its refusal, or None if it ended without one."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await asyncio.shield(self.reading)
        return self.refusal


@asynccontextmanager
async def read_stream(rpc: Any, request: Any) -> AsyncIterator[StreamReader]:
    """Reads the stream of an rpc for the time of the block."""
    stream = StreamReader(rpc(request), request.after)
    try:
        yield stream
    finally:
        stream.reading.cancel()
        await asyncio.gather(stream.reading, return_exceptions=True)
