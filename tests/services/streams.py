"""Listening to a streaming rpc in the background, while a test does what is to be heard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.kit.errors import Refusal
from services.kit.rpc.channel import CURSOR_KEY, iterate_responses

WAIT_SECONDS_MAX = 20.0


class Stream:
    """What came so far: `responses`, and the `cursor` to go on from. `refusal` ended it, if one did."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, Any], after: str) -> None:
        self.call, self.cursor = call, after
        self.responses: list[Any] = []
        self.refusal: Refusal | None = None
        self._news = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            self.cursor = dict(await self.call.initial_metadata()).get(CURSOR_KEY, self.cursor)
            self._news.set()
            async for response in iterate_responses(self.call):
                self.responses.append(response)
                self.cursor = response.cursor
                self._news.set()
        except Refusal as refusal:
            self.refusal = refusal
        finally:
            self._news.set()

    async def came(self, number: int) -> list[Any]:
        """Exactly so many responses so far; waits for them."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(self.responses) < number and not self.reading.done():
                self._news.clear()
                await self._news.wait()
        assert len(self.responses) == number, (self.responses, self.refusal)
        return self.responses

    async def began(self) -> None:
        """Waits until a stream that goes by cursors stands."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not self.cursor and not self.reading.done():
                self._news.clear()
                await self._news.wait()
        if self.refusal:
            raise self.refusal

    async def ended(self) -> Refusal | None:
        """Why it ended; None when it ended well."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await asyncio.shield(self.reading)
        return self.refusal


@asynccontextmanager
async def listening(rpc: Any, request: Any) -> AsyncIterator[Stream]:
    """The stream that a stub's rpc answers the request with, left at the end of the block."""
    stream = Stream(rpc(request), request.after)
    try:
        yield stream
    finally:
        stream.reading.cancel()
        await asyncio.gather(stream.reading, return_exceptions=True)
