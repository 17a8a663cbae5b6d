"""Runs the processes of the suite: starts them in order of readiness, shows their output, and ends all when it should or when one ends.

Nothing is restarted. Every child dies with this process, whatever happens to it (`tether`).
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import click

from services.local.errors import LocalError
from services.local.folder import Member
from services.local.loglines import COLOURS, LINE_BYTES_MAX, plain, readable
from services.local.readiness import until_ready
from services.local.suite import Process, Stages
from services.local.tether import tethered

START_SECONDS_MAX = 60.0
"""Until a process is ready, counted from its start."""
LINES_KEPT = 10
GRACE_SECONDS = 5.0
"""What a process gets beyond its drain before it is killed."""
READ_AFTER_DEATH_SECONDS = 2.0
WATCH_SECONDS = 0.2

Echo = Callable[[str], None]


class Child:
    """A started process, its last lines of output, and its end."""

    def __init__(self, process: Process, running: asyncio.subprocess.Process, colour: str, echo: Echo) -> None:
        self.process, self.running, self.colour, self.echo = process, running, colour, echo
        self.started_at = time.time()
        self.last: deque[bytes] = deque(maxlen=LINES_KEPT)
        self.reading = asyncio.create_task(self._read())
        self.ended = asyncio.create_task(running.wait())

    @classmethod
    async def start(cls, process: Process, colour: str, echo: Echo) -> "Child":
        """Starts it with our environment, less our own `QUANYU_*` variables, plus the process's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUANYU_")}
        running = await asyncio.create_subprocess_exec(
            *tethered(process.command, signal.SIGKILL),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **process.environment},
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the others in order
        )
        return cls(process, running, colour, echo)

    def member(self) -> Member:
        """What run.json says of it."""
        return Member(self.process.name, self.running.pid, self.process.address, self.started_at)

    def signal(self, number: int) -> None:
        """Sends the signal; harmless when the process has ended."""
        if not self.ended.done():
            self.running.send_signal(number)

    async def epitaph(self) -> str:
        """Who ended, how, and the last lines it said."""
        await asyncio.wait([self.reading], timeout=READ_AFTER_DEATH_SECONDS)
        status = self.ended.result()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        lines = "".join(f"\n    {plain(line)}" for line in self.last)
        return f"{self.process.name} {how}" + (f"; its last lines:{lines}" if lines else " without a word")

    async def _read(self) -> None:
        assert self.running.stdout is not None
        while True:
            try:
                line = await self.running.stdout.readline()
            except ValueError:
                line = b"(a line longer than can be shown was left out)\n"
            if not line:
                return
            self.last.append(line)
            try:
                self.echo(readable(self.process.name, self.colour, line))
            except BrokenPipeError:
                # Whoever read our output is gone; the process must not stand still for it.
                self.echo = lambda line: None


class Supervisor:
    """`await supervisor.run(when_ready)` from start to end; `stop()` asks for the end, from a signal for example."""

    def __init__(
        self, stages: Stages, *, drain_seconds: float, echo: Echo = click.echo, mongod_alive: Callable[[], bool] | None = None
    ) -> None:
        self.stages, self.drain_seconds, self.echo = stages, drain_seconds, echo
        self.mongod_alive = mongod_alive
        self.children: list[Child] = []
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the run in order; asked a second time, at once."""
        if self.stopping.is_set():
            for child in self.children:
                child.signal(signal.SIGKILL)
        self.stopping.set()

    async def run(self, when_ready: Callable[[Sequence[Member]], Awaitable[None]]) -> None:
        """Starts everything, calls `when_ready` and stays until `stop`. `LocalError` names the process that ended before that."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        try:
            await self._while_all_live(self._work(when_ready))
        finally:
            await self._end_all()

    async def _work(self, when_ready: Callable[[Sequence[Member]], Awaitable[None]]) -> None:
        for stage in self.stages:
            for process in stage:
                colour = COLOURS[len(self.children) % len(COLOURS)]
                self.children.append(await Child.start(process, colour, self.echo))
            await asyncio.gather(*(self._ready(process) for process in stage))
        await when_ready([child.member() for child in self.children])
        await asyncio.Event().wait()

    async def _ready(self, process: Process) -> None:
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                await until_ready(process.ready_by, process.address)
        except TimeoutError:
            raise LocalError(f"{process.name} is not ready after {START_SECONDS_MAX:.0f} s; its log above says why", status=1) from None

    async def _while_all_live(self, work: Awaitable[None]) -> None:
        """Runs `work` until somebody asks for the end, or raises what ended it: a process, MongoDB or an error of the work itself."""
        working, watching = asyncio.ensure_future(work), asyncio.create_task(self._first_death())
        asked = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([working, watching, asked], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return
            # A death explains an error of the work, not the other way round.
            if watching.done():
                raise LocalError(watching.result(), status=1)
            await working
        finally:
            for task in (working, watching, asked):
                task.cancel()
            await asyncio.gather(working, watching, asked, return_exceptions=True)

    async def _first_death(self) -> str:
        while True:
            for child in self.children:
                if child.ended.done():
                    return await child.epitaph()
            if self.mongod_alive and not self.mongod_alive():
                return "mongod ended; mongo/mongod.log in the data folder says why"
            # Children join while the suite starts, and mongod is no child of this loop: short waits serve both.
            if self.children:
                await asyncio.wait([child.ended for child in self.children], timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(WATCH_SECONDS)

    async def _end_all(self) -> None:
        """The last stage first, so that the gateway stops asking before the services stop answering."""
        for stage in reversed(self.stages):
            await asyncio.gather(*(self._end(child) for child in self.children if child.process in stage))

    async def _end(self, child: Child) -> None:
        child.signal(signal.SIGTERM)
        done, _ = await asyncio.wait([child.ended], timeout=self.drain_seconds + GRACE_SECONDS)
        if not done:
            self.echo(f"{child.process.name} did not end within {self.drain_seconds + GRACE_SECONDS:.0f} s and is killed")
            child.signal(signal.SIGKILL)
            await child.ended
        await asyncio.wait([child.reading], timeout=READ_AFTER_DEATH_SECONDS)
