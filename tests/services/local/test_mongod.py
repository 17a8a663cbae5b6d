"""Local MongoDB: it starts, keeps its data when the port changes, and ends with the process that started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient

from services.local import mongod as module
from services.local.mongod import Mongod, MongodError, find_mongod

START_AND_WAIT = """
import sys
from pathlib import Path
from services.local.mongod import Mongod
with Mongod(Path(sys.argv[1])) as mongod:
    print(mongod.process.pid, flush=True)
    sys.stdin.read()
"""


def test_data_survives_change_of_port(tmp_path: Path) -> None:
    with Mongod(tmp_path) as first, MongoClient(first.uri) as client:
        client["shop"]["orders"].insert_one({"_id": "ord_1"})
    with Mongod(tmp_path) as second, MongoClient(second.uri) as client:
        assert second.port != first.port
        assert client["shop"]["orders"].find_one() == {"_id": "ord_1"}
        with client.start_session() as session, session.start_transaction():
            client["shop"]["orders"].insert_one({"_id": "ord_2"}, session=session)


def test_mongod_ends_with_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START_AND_WAIT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        assert server.name() == "mongod"
        starter.send_signal(signal.SIGKILL)
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_missing_mongod_names_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MongodError, match=r"QUANYU_MONGO_URI"):
        find_mongod()


def test_mongod_on_path_has_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "mongod"
    own.write_text("#!/bin/sh\necho 'error while loading shared libraries: libcurl.so.4'\nexit 127\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_mongod() == own
    with pytest.raises(MongodError, match="apt-get install libcurl4"), Mongod(tmp_path / "data"):
        pass


def test_free_port_never_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PORTS", range(10_000, 11_000))
    monkeypatch.setattr(module, "USED_PORTS", set())
    assert len({module.free_port() for _ in range(300)}) == 300


def test_port_in_use_raises_error(tmp_path: Path) -> None:
    with (
        Mongod(tmp_path / "one") as one,
        pytest.raises(MongodError, match=f"Port {one.port} is in use"),
        Mongod(tmp_path / "two", port=one.port),
    ):
        pass
