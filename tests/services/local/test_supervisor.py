"""Supervisor with small real processes: start order, the end of all after one ends, and no process left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from services.local import supervisor as module
from services.local.errors import LocalError
from services.local.folder import RunningProcess
from services.local.mongod import free_port
from services.local.suite import Process, Stages
from services.local.supervisor import Supervisor

TINY = str(Path(__file__).parent / "tiny.py")

RUN_ALONE = """
import asyncio, sys, msgspec
from services.local.suite import Stages
from services.local.supervisor import Supervisor
async def ready(processes):
    print("PIDS", *(process.pid for process in processes), flush=True)
asyncio.run(Supervisor(msgspec.json.decode(sys.argv[1], type=Stages), drain_seconds=1).run(ready))
print("ENDED", flush=True)
"""


def tiny(name: str, *traits: str, **environment: str) -> Process:
    address = f"127.0.0.1:{free_port()}"
    traits = traits or ("grpc",)
    return Process(name, (sys.executable, TINY, name, address, *traits), address, environment, "http" if "http" in traits else "grpc")


class Watched:
    """A supervisor whose output is kept. It stops once all processes are ready, unless `stay` is set."""

    def __init__(self, *stages: Sequence[Process], stay: bool = False, drain_seconds: float = 2.0) -> None:
        self.lines: list[str] = []
        self.processes: list[RunningProcess] = []
        self.ready = asyncio.Event()
        self.printed = asyncio.Event()
        self.stay = stay
        self.mongod_alive = True
        self.supervisor = Supervisor(
            tuple(tuple(stage) for stage in stages),
            drain_seconds=drain_seconds,
            echo=self.print_line,
            mongod_alive=lambda: self.mongod_alive,
        )

    def print_line(self, line: str) -> None:
        self.lines.append(line)
        self.printed.set()

    async def run(self) -> None:
        await self.supervisor.run(self._ready)

    async def _ready(self, processes: Sequence[RunningProcess]) -> None:
        self.processes += processes
        self.ready.set()
        if not self.stay:
            self.supervisor.stop()

    def index(self, text: str) -> int:
        return next(number for number, line in enumerate(self.lines) if text in line)


async def test_stages_start_in_order_and_end_reversed() -> None:
    watched = Watched([tiny("member"), tiny("commerce")], [tiny("gateway", "http")])
    await watched.run()
    assert [process.name for process in watched.processes] == ["member", "commerce", "gateway"]
    assert watched.index("listening") < watched.index("gateway ends in order") < watched.index("member ends in order")
    assert not any(psutil.pid_exists(process.pid) for process in watched.processes)


async def test_log_records_are_formatted_with_prefix() -> None:
    watched = Watched([tiny("member")])
    await watched.run()
    first = watched.lines[watched.index("listening")]
    assert "member" in first and "info" in first and "address=127.0.0.1:" in first and "{" not in first


async def test_exit_of_one_process_ends_all(tmp_path: Path) -> None:
    die = tmp_path / "die"
    watched = Watched([tiny("member"), tiny("commerce", TINY_DIE=str(die))], [tiny("gateway", "http")], stay=True)
    running = asyncio.create_task(watched.run())
    await watched.ready.wait()
    die.touch()
    with pytest.raises(LocalError, match=r"commerce ended with status 3(.|\n)*out of stock") as caught:
        await running
    assert caught.value.status == 1
    assert not any(psutil.pid_exists(process.pid) for process in watched.processes)


async def test_killed_process_is_reported_with_signal() -> None:
    watched = Watched([tiny("member"), tiny("district")], stay=True)
    running = asyncio.create_task(watched.run())
    await watched.ready.wait()
    os.kill(watched.processes[1].pid, signal.SIGKILL)
    with pytest.raises(LocalError, match="district was killed by SIGKILL"):
        await running


async def test_exit_during_start_is_reported() -> None:
    broken = msgspec.structs.replace(tiny("member"), command=(sys.executable, "-c", "raise SystemExit('no key')"))
    with pytest.raises(LocalError, match=r"member ended with status 1(.|\n)*no key"):
        await Watched([broken]).run()


async def test_process_without_readiness_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS_MAX", 6.0)
    with pytest.raises(LocalError, match="commerce is not ready after 6 s"):
        await Watched([tiny("member"), tiny("commerce", "mute")]).run()


async def test_stop_during_start_ends_started_processes() -> None:
    watched = Watched([tiny("member", "mute")])
    running = asyncio.create_task(watched.run())
    await watched.printed.wait()
    watched.supervisor.stop()
    await running
    assert watched.index("member ends in order") and not watched.processes


async def test_exit_of_mongod_ends_all() -> None:
    watched = Watched([tiny("member")], stay=True)
    running = asyncio.create_task(watched.run())
    await watched.ready.wait()
    watched.mongod_alive = False
    with pytest.raises(LocalError, match="mongod ended"):
        await running


async def test_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    watched = Watched([tiny("member", "grpc", "stubborn")], drain_seconds=0.1)
    await watched.run()
    assert any("is killed" in line for line in watched.lines)
    assert not psutil.pid_exists(watched.processes[0].pid)


def run_alone(stages: Stages) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """Starts a supervisor in a separate process; returns it with its children once all are ready."""
    alone = subprocess.Popen([sys.executable, "-c", RUN_ALONE, msgspec.json.encode(stages).decode()], stdout=subprocess.PIPE, text=True)
    assert alone.stdout is not None
    line = next(line for line in alone.stdout if line.startswith("PIDS"))
    return alone, [psutil.Process(int(pid)) for pid in line.split()[1:]]


def have_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_all_in_order(number: signal.Signals) -> None:
    alone, children = run_alone(((tiny("member"), tiny("commerce")), (tiny("gateway", "http"),)))
    alone.send_signal(number)
    output, _ = alone.communicate(timeout=10)
    assert alone.returncode == 0 and "gateway ends in order" in output and output.endswith("ENDED\n")
    assert have_ended(children)


def test_children_end_with_killed_supervisor() -> None:
    alone, children = run_alone(((tiny("member"), tiny("commerce", "grpc", "stubborn")),))
    alone.kill()
    alone.communicate(timeout=10)
    assert len(children) == 2 and have_ended(children)
