"""The data folder (`.quanyu`): what stays between runs, who uses it now, and where the running suite is found.

version     the layout of the folder                  keys.json   development keys (kept, readable by the owner only)
lock        held by the one `quanyu up` that uses it  run.json    addresses and process ids of the running suite
mongo/      MongoDB's own files                       loading     held while the demo world is being loaded
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

VERSION = "1"
"""Raised when what an older Quanyu left in the folder can no longer be read."""
PRIVATE = 0o600

Kept = TypeVar("Kept")


class Member(Struct, frozen=True):
    """One process of the running suite. `address` is host:port."""

    name: str
    pid: int
    address: str
    started_at: float


class Run(Struct, frozen=True):
    """The running suite: `gateway` is the base URL, `mongo_uri` where the databases stand, `processes` in order of their start, and
    `installation` the id of what these databases hold."""

    pid: int
    gateway: str
    mongo_uri: str
    database_prefix: str
    processes: list[Member]
    installation: str = ""

    def addresses(self) -> Mapping[str, str]:
        """Process name -> host:port."""
        return {process.name: process.address for process in self.processes}


class Folder:
    """A data folder. Nothing is made on disk before `claim`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys.json"
        self.run = path / "run.json"
        self.mongo = path / "mongo"
        self.mark = path / "loading"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Makes the folder where it is missing and keeps it for this process during the block; `LocalError` when it cannot be used."""
        self._check_version()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise LocalError(f"the data folder {self.path} cannot be used: {error.strerror}; name another with --data") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(
                    f"another `quanyu up` (process {self._holder()}) uses {self.path}; end it or name another folder with --data"
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
        """The suite that runs on this folder, as it last wrote itself down; `LocalError` when none does."""
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            return self._read(self.run, Run, f"the suite on {self.path} is just starting; try again in a moment")
        raise LocalError(f"no suite runs on {self.path}; start it with `quanyu up`", status=1)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Says during the block that the demo world is being loaded, to whoever asks `is_loading`; the mark goes with this process."""
        with self.mark.open("a") as mark:
            fcntl.flock(mark, fcntl.LOCK_SH)
            yield

    def is_loading(self) -> bool:
        """Whether some process is loading the demo world."""
        try:
            with self.mark.open("a") as mark:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def write(self, path: Path, value: object) -> None:
        """Writes JSON whole or not at all, readable by the owner only."""
        draft = path.with_suffix(".draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value)))
        draft.replace(path)

    def _read(self, path: Path, kind: type[Kept], missing: str) -> Kept:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            raise LocalError(missing, status=1) from None
        except msgspec.DecodeError as error:
            raise LocalError(f"{path} is damaged ({error}); remove it and start anew") from None

    def read_keys(self, kind: type[Kept]) -> Kept:
        """What `quanyu up` keeps in keys.json; `LocalError` when it never ran on this folder."""
        return self._read(self.keys, kind, f"there are no development keys in {self.path}; `quanyu up` makes them")

    def _holder(self) -> str:
        return (self.path / "lock").read_text().strip() or "unknown"

    def _check_version(self) -> None:
        try:
            found = (self.path / "version").read_text().strip()
        except NotADirectoryError:
            raise LocalError(f"{self.path} is not a folder; name another with --data") from None
        except FileNotFoundError:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise LocalError(f"{self.path} is not empty and no data folder of Quanyu; name another with --data") from None
            return
        if found != VERSION:
            raise LocalError(
                f"the data folder {self.path} is of version {found}, this Quanyu reads version {VERSION}; "
                "move it away or name another with --data"
            )
