"""Data folder (`.quanyu`): the state that survives a run, the lock of its user, and the addresses of the running suite.

version     format of the data                         keys.json   development keys, readable by the owner only
lock        held by the `quanyu up` that uses it       run.json    addresses and process ids of the running suite
mongo/      files of MongoDB                           loading     lock, held while the demo world is loaded
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from services.local.errors import LocalError

VERSION = 2
"""The format of the data in the folder and its databases. It goes up when the data of older versions can no longer be read."""
PRIVATE = 0o600
"""The file mode of secrets: only the owner may read and write them."""

Stored = TypeVar("Stored")


class RunningProcess(Struct, frozen=True):
    """A process of the running suite. `address` is host:port."""

    name: str
    pid: int
    address: str
    started_at: float


class Run(Struct, frozen=True):
    """The running suite. `gateway` is the base URL, `processes` are in order of start, `installation` identifies the databases."""

    pid: int
    gateway: str
    mongo_uri: str
    database_prefix: str
    processes: list[RunningProcess]
    installation: str = ""

    def addresses(self) -> Mapping[str, str]:
        """Returns host:port by process name."""
        return {process.name: process.address for process in self.processes}


class Folder:
    """A data folder. It is created on disk by `claim`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys.json"
        self.run = path / "run.json"
        self.mongo = path / "mongo"
        self.loading_lock = path / "loading"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Creates the folder if it is missing and locks it for the block; raises `LocalError` if it cannot be used."""
        self._check_version()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise LocalError(f"The data folder {self.path} cannot be used: {error.strerror}. Choose another folder with --data.") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(
                    f"Another `quanyu up` (process {self._holder()}) uses {self.path}. Stop it, or choose another folder with --data."
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            (self.path / "version").write_text(f"{VERSION}\n")
            self.run.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.run.unlink(missing_ok=True)

    def running(self) -> Run:
        """Returns the suite that uses this folder; raises `LocalError` if none runs."""
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            return self._read(self.run, Run, f"The suite of {self.path} is still starting. Try again in a moment.")
        raise LocalError(f"No suite runs on {self.path}. Start one with `quanyu up`.", status=1)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Marks the demo world as being loaded during the block. The mark is a file lock, so it ends with the process."""
        with self.loading_lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def is_loading(self) -> bool:
        """True if a process is loading the demo world."""
        try:
            with self.loading_lock.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def write(self, path: Path, value: object) -> None:
        """Writes JSON atomically, readable by the owner only."""
        draft = path.with_suffix(".draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value)))
        draft.replace(path)

    def _read(self, path: Path, kind: type[Stored], missing: str) -> Stored:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            raise LocalError(missing, status=1) from None
        except msgspec.DecodeError as error:
            raise LocalError(f"{path} is damaged ({error}). Delete it and run `quanyu up` again.") from None

    def read_keys(self, kind: type[Stored]) -> Stored:
        """Reads keys.json; raises `LocalError` if `quanyu up` never ran on this folder."""
        return self._read(self.keys, kind, f"{self.path} holds no development keys. Run `quanyu up`, which creates them.")

    def _holder(self) -> str:
        return (self.path / "lock").read_text().strip() or "unknown"

    def _check_version(self) -> None:
        try:
            found = (self.path / "version").read_text().strip()
        except NotADirectoryError:
            raise LocalError(f"{self.path} is not a folder. Choose another path with --data.") from None
        except FileNotFoundError:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise LocalError(
                    f"{self.path} holds other files and is not a data folder of Quanyu. Choose another folder with --data."
                ) from None
            return
        if found != str(VERSION):
            is_older = found.isdecimal() and int(found) < VERSION
            remedy = "Delete the folder or start with --data OTHER" if is_older else "Use that version or start with --data OTHER"
            raise LocalError(f"The data in {self.path} has format {found}, but this version of Quanyu reads format {VERSION}. {remedy}.")
