"""Real small processes under the real supervisor: order of readiness, one death ends all, nothing is left behind."""

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
from services.local.folder import Member
from services.local.mongod import free_port
from services.local.suite import Process, Stages
from services.local.supervisor import Supervisor

TINY = str(Path(__file__).parent / "tiny.py")

RUN_ALONE = """
import asyncio, sys, msgspec
from services.local.suite import Stages
from services.local.supervisor import Supervisor
async def ready(members):
    print("PIDS", *(member.pid for member in members), flush=True)
asyncio.run(Supervisor(msgspec.json.decode(sys.argv[1], type=Stages), drain_seconds=1).run(ready))
print("ENDED", flush=True)
"""


def tiny(name: str, *traits: str, **environment: str) -> Process:
    address = f"127.0.0.1:{free_port()}"
    traits = traits or ("grpc",)
    return Process(name, (sys.executable, TINY, name, address, *traits), address, environment, "http" if "http" in traits else "grpc")


class Watched:
    """A supervisor whose output is kept, which stops as soon as everything is ready unless `stay`."""

    def __init__(self, *stages: Sequence[Process], stay: bool = False, drain_seconds: float = 2.0) -> None:
        self.lines: list[str] = []
        self.members: list[Member] = []
        self.ready = asyncio.Event()
        self.said = asyncio.Event()
        self.stay = stay
        self.mongod_alive = True
        self.supervisor = Supervisor(
            tuple(tuple(stage) for stage in stages), drain_seconds=drain_seconds, echo=self.say, mongod_alive=lambda: self.mongod_alive
        )

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.said.set()

    async def run(self) -> None:
        await self.supervisor.run(self._ready)

    async def _ready(self, members: Sequence[Member]) -> None:
        self.members += members
        self.ready.set()
        if not self.stay:
            self.supervisor.stop()

    def index(self, text: str) -> int:
        return next(number for number, line in enumerate(self.lines) if text in line)


async def test_a_stage_starts_when_the_one_before_is_ready_and_ends_before_it() -> None:
    watched = Watched([tiny("member"), tiny("commerce")], [tiny("gateway", "http")])
    await watched.run()
    assert [member.name for member in watched.members] == ["member", "commerce", "gateway"]
    assert watched.index("listening") < watched.index("gateway says goodbye") < watched.index("member says goodbye")
    assert not any(psutil.pid_exists(member.pid) for member in watched.members)


async def test_lines_are_prefixed_and_records_laid_out() -> None:
    watched = Watched([tiny("member")])
    await watched.run()
    first = watched.lines[watched.index("listening")]
    assert "member" in first and "info" in first and "address=127.0.0.1:" in first and "{" not in first


async def test_one_death_ends_all_and_is_named(tmp_path: Path) -> None:
    die = tmp_path / "die"
    watched = Watched([tiny("member"), tiny("commerce", TINY_DIE=str(die))], [tiny("gateway", "http")], stay=True)
    running = asyncio.create_task(watched.run())
    await watched.ready.wait()
    die.touch()
    with pytest.raises(LocalError, match=r"commerce ended with status 3(.|\n)*no more stock of patience") as caught:
        await running
    assert caught.value.status == 1
    assert not any(psutil.pid_exists(member.pid) for member in watched.members)


async def test_a_killed_process_is_named_with_its_signal() -> None:
    watched = Watched([tiny("member"), tiny("district")], stay=True)
    running = asyncio.create_task(watched.run())
    await watched.ready.wait()
    os.kill(watched.members[1].pid, signal.SIGKILL)
    with pytest.raises(LocalError, match="district was killed by SIGKILL"):
        await running


async def test_a_death_during_the_start_is_told_at_once() -> None:
    broken = msgspec.structs.replace(tiny("member"), command=(sys.executable, "-c", "raise SystemExit('no key')"))
    with pytest.raises(LocalError, match=r"member ended with status 1(.|\n)*no key"):
        await Watched([broken]).run()


async def test_a_process_that_never_gets_ready_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS_MAX", 6.0)
    with pytest.raises(LocalError, match="commerce is not ready after 6 s"):
        await Watched([tiny("member"), tiny("commerce", "mute")]).run()


async def test_asked_to_end_during_the_start_it_ends_what_stands() -> None:
    watched = Watched([tiny("member", "mute")])
    running = asyncio.create_task(watched.run())
    await watched.said.wait()
    watched.supervisor.stop()
    await running
    assert watched.index("member says goodbye") and not watched.members


async def test_the_end_of_mongod_ends_all() -> None:
    watched = Watched([tiny("member")], stay=True)
    running = asyncio.create_task(watched.run())
    await watched.ready.wait()
    watched.mongod_alive = False
    with pytest.raises(LocalError, match="mongod ended"):
        await running


async def test_a_stubborn_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    watched = Watched([tiny("member", "grpc", "stubborn")], drain_seconds=0.1)
    await watched.run()
    assert any("is killed" in line for line in watched.lines)
    assert not psutil.pid_exists(watched.members[0].pid)


def run_alone(stages: Stages) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """A supervisor in a process of its own, and its children once all are ready."""
    alone = subprocess.Popen([sys.executable, "-c", RUN_ALONE, msgspec.json.encode(stages).decode()], stdout=subprocess.PIPE, text=True)
    assert alone.stdout is not None
    line = next(line for line in alone.stdout if line.startswith("PIDS"))
    return alone, [psutil.Process(int(pid)) for pid in line.split()[1:]]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_in_order(number: signal.Signals) -> None:
    alone, children = run_alone(((tiny("member"), tiny("commerce")), (tiny("gateway", "http"),)))
    alone.send_signal(number)
    output, _ = alone.communicate(timeout=10)
    assert alone.returncode == 0 and "gateway says goodbye" in output and output.endswith("ENDED\n")
    assert gone(children)


def test_nothing_outlives_a_supervisor_that_is_killed() -> None:
    alone, children = run_alone(((tiny("member"), tiny("commerce", "grpc", "stubborn")),))
    alone.kill()
    alone.communicate(timeout=10)
    assert len(children) == 2 and gone(children)
