"""Local MongoDB server: a replica set of one node that runs during a block."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from services.local.parent_death import with_parent_death_signal

CONFIGURED_SECONDS_MAX = 5.0
"""A node with data has this long to read its configuration; after that it is initiated as a new one."""
POLL_SECONDS = 0.01
START_SECONDS_MAX = 60.0
"""The server must start within this time, which includes the recovery of its journal after a kill."""
STOP_SECONDS_MAX = 15.0
SELECT_MILLISECONDS = 5000
VERSION_MIN = 6
LOG_LINES_SHOWN = 5
NOT_YET_INITIALIZED = 94
PORT_TAKEN_STATUS = 48
FREE_PORT_ATTEMPTS_MAX = 5
PORTS = range(10_000, 32_768)
"""The ports to choose from lie below the ephemeral ports of Linux."""
USED_PORTS: set[int] = set()
"""Ports that this process was given already. gRPC delays its next attempt on a port that refused a connection before."""

ADVICE = (
    "mongod is missing. Install MongoDB 6 or later so that `mongod` is on PATH, or the extra that contains it "
    "(.venv/bin/pip install -e '.[local]'; Linux x86_64 with OpenSSL 3 and libcurl4: apt-get install libcurl4), "
    "or name a replica set with --mongo or QUANYU_MONGO_URI."
)
LIBRARIES = "mongod lacks a shared library. On Debian and Ubuntu run apt-get install libcurl4 libssl3"
PROCESSOR = "mongod needs a processor with AVX. Name a MongoDB on another machine with QUANYU_MONGO_URI."
FILE_MANAGER = "file_manager=(close_idle_time=15,close_scan_interval=5,close_handle_minimum=250)"
"""WiredTiger closes the files of collections that were idle for 15 seconds. Its own 10 minutes exceed the limit of open files in tests."""


class MongodError(Exception):
    """mongod is missing, does not start or cannot be used. The message is one line with the remedy."""


def find_mongod() -> Path:
    """Returns the mongod on PATH, else the one of the extra `local`; raises `MongodError` if there is neither."""
    if found := shutil.which("mongod"):
        return Path(found)
    # Only the spec of the package is read, since importing it would load far more than a binary.
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder, "db", "bin", "mongod")
        if os.access(bundled, os.X_OK):
            return bundled
    raise MongodError(ADVICE)


class Mongod:
    """`with Mongod(folder) as mongod: mongod.uri`: a writable primary that ends with the block and keeps its data in `folder`.

    `port` 0 chooses a free port, which may differ from run to run. The server listens on 127.0.0.1 only, without authentication.
    `cache_gb` limits the cache; with 0.5 GB, evictions take more than half of an import's server time.
    `parameters` become `--setParameter`. The server ends by SIGTERM, by SIGKILL after `STOP_SECONDS_MAX`, or with this process.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, cache_gb: float = 1.0, oplog_mb: int = 990, parameters: Mapping[str, str | int] | None = None
    ) -> None:
        self.folder = folder
        self.port = port
        self.cache_gb = cache_gb
        self.oplog_mb = oplog_mb
        self.parameters = {
            "shutdownTimeoutMillisForSignaledShutdown": 100,
            "diagnosticDataCollectionEnabled": "false",
            **(parameters or {}),
        }
        self.log = folder / "mongod.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.had_data = False
        """True if the folder had data before this start."""

    @property
    def uri(self) -> str:
        """Returns the URI of the replica set."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet=rs0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the node is a writable primary; raises `MongodError` and stops the server if it does not become one."""
        binary = find_mongod()
        self.had_data = (self.folder / "WiredTiger").exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        any_port = self.port == 0
        try:
            for attempt in range(1, FREE_PORT_ATTEMPTS_MAX + 1):
                self.port = self.port or free_port()
                self._spawn(binary)
                if self._wait_until(self._is_listening, "does not listen", retry=any_port and attempt < FREE_PORT_ATTEMPTS_MAX):
                    break
                self.port = 0  # another process took the port between the choice and the start
            with MongoClient[Any]("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=SELECT_MILLISECONDS) as client:
                self._configure(client, time.monotonic() + CONFIGURED_SECONDS_MAX)
                self._wait_until(lambda: bool(client.admin.command("hello").get("isWritablePrimary")), "does not become primary")
        except BaseException as error:
            self.stop()
            if isinstance(error, PyMongoError):
                raise MongodError(f"mongod did not start: {error}. Its log is {self.log}.") from error
            raise

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.poll() is None

    def _spawn(self, binary: Path) -> None:
        command = [str(binary), "--dbpath", str(self.folder), "--bind_ip", "127.0.0.1", "--port", str(self.port), "--replSet", "rs0"]
        command += ["--wiredTigerCacheSizeGB", str(self.cache_gb), "--oplogSize", str(self.oplog_mb), "--nounixsocket"]
        command += ["--wiredTigerEngineConfigString", FILE_MANAGER]
        for name, value in self.parameters.items():
            command += ["--setParameter", f"{name}={value}"]
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("wb") as log:
            # In its own session, Ctrl-C does not reach the server: the supervisor ends it last.
            self.process = subprocess.Popen(
                with_parent_death_signal(command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _is_listening(self) -> bool:
        # The sockets of the process are checked, since another server could listen on the port.
        assert self.process is not None
        try:
            connections = psutil.Process(self.process.pid).net_connections("tcp4")
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in connections)

    def _configure(self, client: MongoClient[Any], deadline: float) -> None:
        host = f"127.0.0.1:{self.port}"
        # A node with data may not have read its configuration yet, and a second one would end it.
        while (config := _config(client)) is None and self.had_data and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if config is None:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": host}]})
        elif config["members"][0]["host"] != host:
            config["members"][0]["host"] = host
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    def _wait_until(self, condition: Callable[[], bool], problem: str, *, retry: bool = False) -> bool:
        """Polls until `condition`; returns False if the port was taken and `retry` is set; raises `MongodError` on any other end."""
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if (status := self.process.poll()) is not None:
                if retry and status == PORT_TAKEN_STATUS:
                    return False
                raise MongodError(self._explain_exit(status))
            if condition():
                return True
            time.sleep(POLL_SECONDS)
        raise MongodError(f"mongod {problem} after {START_SECONDS_MAX:.0f} s. Its log is {self.log}.")

    def _explain_exit(self, status: int) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        if any("error while loading shared libraries" in line for line in lines):
            return f"{LIBRARIES}: {lines[-1]}"
        if status == -signal.SIGILL:
            return PROCESSOR
        if status == PORT_TAKEN_STATUS:
            return f"Port {self.port} is in use, so mongod cannot listen on it. Stop the process that uses it."
        return f"mongod ended with status {status}. The end of its log {self.log}: " + " | ".join(lines[-LOG_LINES_SHOWN:])


def check_server(uri: str) -> None:
    """Raises `MongodError` if the server at `uri` does not answer, is not a replica set or is too old."""
    bounded: dict[str, Any] = {} if "serverselectiontimeoutms" in uri.lower() else {"serverSelectionTimeoutMS": SELECT_MILLISECONDS}
    try:
        with MongoClient[Any](uri, connectTimeoutMS=SELECT_MILLISECONDS, **bounded) as client:
            hello = client.admin.command("hello")
            version = client.admin.command("buildInfo")["versionArray"]
    except PyMongoError as error:
        raise MongodError(f"The MongoDB of --mongo or QUANYU_MONGO_URI does not answer: {_shorten(error)}") from None
    if not (hello.get("setName") or hello.get("msg") == "isdbgrid"):
        raise MongodError("The MongoDB of --mongo or QUANYU_MONGO_URI is not a replica set. Start it with --replSet and initiate it.")
    if version[0] < VERSION_MIN:
        raise MongodError(f"MongoDB {version[0]}.{version[1]} is too old. Use version {VERSION_MIN} or later.")


def _shorten(error: PyMongoError) -> str:
    """Returns the driver's message without its timeouts and topology."""
    return str(error).split(" (configured timeouts")[0].split(", Timeout:")[0]


def port_is_free(port: int) -> bool:
    """True if the TCP port of 127.0.0.1 is free. A socket in TIME_WAIT does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Returns a free TCP port of 127.0.0.1 outside the ephemeral ports, and never the same port twice."""
    for _ in PORTS:
        port = secrets.choice(PORTS)
        if port in USED_PORTS:
            continue
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            USED_PORTS.add(port)
            return port
    raise MongodError(f"Every port from {PORTS.start} to {PORTS.stop - 1} is in use. Stop the processes that use them.")


def _config(client: MongoClient[Any]) -> dict[str, Any] | None:
    """Returns the node's configuration; None while it has none."""
    try:
        return client.admin.command("replSetGetConfig")["config"]  # type: ignore[no-any-return]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        return None
