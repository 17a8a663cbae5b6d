"""Process supervisor: starts the suite stage by stage, prints its output, and ends all processes on a signal or when one ends.

Processes are not restarted. Every child ends with this process, even if this process is killed (`parent_death`).
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import click

from services.local.errors import LocalError
from services.local.folder import RunningProcess
from services.local.log_lines import COLOURS, LINE_BYTES_MAX, format_line, format_plain
from services.local.parent_death import with_parent_death_signal
from services.local.readiness import wait_until_ready
from services.local.suite import Process, Stages

START_SECONDS_MAX = 60.0
"""A process must be ready this long after its start."""
LINES_KEPT_MAX = 10
"""The report of an ended process shows at most this many of its last lines."""
GRACE_SECONDS = 5.0
"""A process that still runs this long after its drain time is killed."""
READ_AFTER_EXIT_SECONDS = 2.0
"""The output of an ended process is read for at most this long."""
WATCH_SECONDS = 0.2
"""The supervisor checks this often whether mongod runs."""

Echo = Callable[[str], None]


class Child:
    """A started process, its last lines of output and its exit."""

    def __init__(self, process: Process, running: asyncio.subprocess.Process, colour: str, echo: Echo) -> None:
        self.process, self.running, self.colour, self.echo = process, running, colour, echo
        self.started_at = time.time()
        self.last: deque[bytes] = deque(maxlen=LINES_KEPT_MAX)
        self.reading = asyncio.create_task(self._read())
        self.ended = asyncio.create_task(running.wait())

    @classmethod
    async def start(cls, process: Process, colour: str, echo: Echo) -> "Child":
        """Starts the process with its own `QUANYU_*` variables and the rest of this environment."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUANYU_")}
        running = await asyncio.create_subprocess_exec(
            *with_parent_death_signal(process.command, signal.SIGKILL),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **process.environment},
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the others in order
        )
        return cls(process, running, colour, echo)

    def describe(self) -> RunningProcess:
        """Returns its entry in run.json."""
        return RunningProcess(self.process.name, self.running.pid, self.process.address, self.started_at)

    def signal(self, number: int) -> None:
        """Sends the signal, unless the process has ended."""
        if not self.ended.done():
            self.running.send_signal(number)

    async def describe_exit(self) -> str:
        """Returns how the process ended, with its last lines of output."""
        await asyncio.wait([self.reading], timeout=READ_AFTER_EXIT_SECONDS)
        status = self.ended.result()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        lines = "".join(f"\n    {format_plain(line)}" for line in self.last)
        return f"{self.process.name} {how}" + (f". Its last lines:{lines}" if lines else ". It printed nothing.")

    async def _read(self) -> None:
        assert self.running.stdout is not None
        while True:
            try:
                line = await self.running.stdout.readline()
            except ValueError:
                line = f"(a line of more than {LINE_BYTES_MAX} bytes is left out)\n".encode()
            if not line:
                return
            self.last.append(line)
            try:
                self.echo(format_line(self.process.name, self.colour, line))
            except BrokenPipeError:
                # The reader of our output has ended. The process must not block on a full pipe.
                self.echo = lambda line: None


class Supervisor:
    """Runs all stages: `await supervisor.run(when_ready)` lasts until `stop()`, which a signal handler may call."""

    def __init__(
        self, stages: Stages, *, drain_seconds: float, echo: Echo = click.echo, mongod_alive: Callable[[], bool] | None = None
    ) -> None:
        self.stages, self.drain_seconds, self.echo = stages, drain_seconds, echo
        self.mongod_alive = mongod_alive
        self.children: list[Child] = []
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the run in order. A second call kills the processes at once."""
        if self.stopping.is_set():
            for child in self.children:
                child.signal(signal.SIGKILL)
        self.stopping.set()

    async def run(self, when_ready: Callable[[Sequence[RunningProcess]], Awaitable[None]]) -> None:
        """Starts all processes, calls `when_ready` and returns after `stop`; raises `LocalError` if a process ends before that."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        try:
            await self._run_until_first_exit(self._work(when_ready))
        finally:
            await self._end_all()

    async def _work(self, when_ready: Callable[[Sequence[RunningProcess]], Awaitable[None]]) -> None:
        for stage in self.stages:
            for process in stage:
                colour = COLOURS[len(self.children) % len(COLOURS)]
                self.children.append(await Child.start(process, colour, self.echo))
            await asyncio.gather(*(self._ready(process) for process in stage))
        await when_ready([child.describe() for child in self.children])
        await asyncio.Event().wait()

    async def _ready(self, process: Process) -> None:
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                await wait_until_ready(process.ready_by, process.address)
        except TimeoutError:
            raise LocalError(
                f"{process.name} is not ready after {START_SECONDS_MAX:.0f} s. Its log lines above show why.", status=1
            ) from None

    async def _run_until_first_exit(self, work: Awaitable[None]) -> None:
        """Runs `work` until `stop`; raises `LocalError` if a process or MongoDB ends, and any error of the work."""
        working, watching = asyncio.ensure_future(work), asyncio.create_task(self._first_exit())
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([working, watching, stop], return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            # The end of a process is the cause of an error of the work, not its result.
            if watching.done():
                raise LocalError(watching.result(), status=1)
            await working
        finally:
            for task in (working, watching, stop):
                task.cancel()
            await asyncio.gather(working, watching, stop, return_exceptions=True)

    async def _first_exit(self) -> str:
        while True:
            for child in self.children:
                if child.ended.done():
                    return await child.describe_exit()
            if self.mongod_alive and not self.mongod_alive():
                return "mongod ended. mongo/mongod.log in the data folder shows why."
            # Children are added during the start, and mongod is not a child of this loop, so the wait is short.
            if self.children:
                await asyncio.wait([child.ended for child in self.children], timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(WATCH_SECONDS)

    async def _end_all(self) -> None:
        """Ends the last stage first, so that the gateway stops before the services it calls."""
        for stage in reversed(self.stages):
            await asyncio.gather(*(self._end(child) for child in self.children if child.process in stage))

    async def _end(self, child: Child) -> None:
        child.signal(signal.SIGTERM)
        done, _ = await asyncio.wait([child.ended], timeout=self.drain_seconds + GRACE_SECONDS)
        if not done:
            self.echo(f"{child.process.name} did not end within {self.drain_seconds + GRACE_SECONDS:.0f} s and is killed.")
            child.signal(signal.SIGKILL)
            await child.ended
        await asyncio.wait([child.reading], timeout=READ_AFTER_EXIT_SECONDS)
