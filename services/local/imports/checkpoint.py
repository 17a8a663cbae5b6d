"""How far an import came: kept beside the files, so that the same command goes on where it stopped."""

import os
import secrets
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from services.local.errors import LocalError

CHECKPOINT = ".quanyu-import.json"


class Counted(Struct):
    """What became of one file: items taken and rejected."""

    imported: int = 0
    rejected: int = 0


class Begun(Struct):
    """A file that was begun: the mark of its content, the items that are certain, and whether these are all.

    `attempt` goes into the ids of its batches: within one attempt a batch sent again is a repeat, in another one it is looked at anew.
    `refused` are the rows that the suite did not take, which may be for what another file lacks: `folder` is the mark of all files when
    they were sent.
    """

    mark: str
    attempt: str
    folder: str = ""
    done: int = 0
    whole: bool = False
    refused: list[int] = []
    counted: Counted = msgspec.field(default_factory=Counted)


class Checkpoint(Struct):
    """What of a folder stands in one installation, and how much of the rejects file belongs to that."""

    installation: str = ""
    files: dict[str, Begun] = {}
    rejects_bytes: int = 0
    finished_at: datetime | None = None

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """What was saved last, nothing at first; `LocalError` when it cannot be read."""
        path = folder / CHECKPOINT
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (msgspec.DecodeError, OSError) as error:
            raise LocalError(f"{path} cannot be read ({error}); --anew imports from the start") from None

    def save(self, folder: Path) -> None:
        """Writes it whole or not at all, whatever happens to this process or the machine."""
        path = folder / CHECKPOINT
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(self))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def begin(self, name: str, mark: str, folder: str) -> Begun:
        """The file as far as it came; from its start when it is another than the one that was begun."""
        begun = self.files.get(name)
        if begun is None or begun.mark != mark:
            begun = self.files[name] = Begun(mark, secrets.token_hex(8), folder)
            self.finished_at = None
        return begun
