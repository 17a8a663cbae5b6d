"""Import checkpoint: the progress of an import, kept beside its files so that the same command resumes."""

import os
import secrets
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from services.local.errors import LocalError

CHECKPOINT = ".quanyu-import.json"


class Counts(Struct):
    """The imported and rejected items of one file."""

    imported: int = 0
    rejected: int = 0


class FileProgress(Struct):
    """The progress of one file: the hash of its content, the number of answered items, and whether these are all.

    `attempt` is part of the request ids of the file's batches: a batch repeated within an attempt returns its first answer.
    `refused` are the rows the suite refused, maybe because another file lacks something. `folder` is the hash of all files at that time.
    """

    mark: str
    attempt: str
    folder: str = ""
    done: int = 0
    whole: bool = False
    refused: list[int] = []
    counted: Counts = msgspec.field(default_factory=Counts)


class Checkpoint(Struct):
    """The progress of a folder in one installation, and the size of the rejects file that belongs to it."""

    installation: str = ""
    files: dict[str, FileProgress] = {}
    rejects_bytes: int = 0
    finished_at: datetime | None = None

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """Reads the last checkpoint, an empty one at first; raises `LocalError` if it cannot be read."""
        path = folder / CHECKPOINT
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (msgspec.DecodeError, OSError) as error:
            raise LocalError(f"{path} cannot be read ({error}). Import from the start with --again.") from None

    def save(self, folder: Path) -> None:
        """Writes the checkpoint atomically and durably."""
        path = folder / CHECKPOINT
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(self))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def begin(self, name: str, mark: str, folder: str) -> FileProgress:
        """Returns the progress of a file; a new one if the file or its content is new."""
        progress = self.files.get(name)
        if progress is None or progress.mark != mark:
            progress = self.files[name] = FileProgress(mark, secrets.token_hex(8), folder)
            self.finished_at = None
        return progress
