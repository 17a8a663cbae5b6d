"""The last keys of an identity provider on disk, so that a gateway which starts anew while the provider is away believes its tokens too.

Whoever may write there says whose tokens are believed: the folder is the gateway's alone, and a file that is not is as good as none.
"""

import os
import stat
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from services.kit.logs import logger


class Kept(Struct, frozen=True):
    """What a file holds: the JWKs as they were published, and when that was heard (seconds since 1970)."""

    issuer: str
    jwks_uri: str
    fetched_at: float
    keys: list[dict[str, Any]]


class KeyFile:
    """The file of one provider within a folder; without a folder nothing is kept. What goes wrong with it is told in the log."""

    def __init__(self, folder: str, issuer: str, jwks_uri: str) -> None:
        self.issuer, self.jwks_uri = issuer, jwks_uri
        self.path = Path(folder) / f"{sha256(issuer.encode()).hexdigest()[:32]}.json" if folder else None

    def keep(self, keys: list[dict[str, Any]], age_seconds: float) -> None:
        """Writes the keys in the place of those before, whole or not at all."""
        if self.path is None:
            return
        kept = Kept(self.issuer, self.jwks_uri, time.time() - age_seconds, keys)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, suffix=".new", delete=False) as file:
                try:
                    file.write(msgspec.json.encode(kept))
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, self.path)
                except OSError:
                    # A disk that is full would get fuller with each try.
                    os.unlink(file.name)
                    raise
        except OSError as error:
            logger().warning("keys of identity provider are not kept", issuer=self.issuer, why=str(error))

    def kept(self) -> tuple[list[dict[str, Any]], float]:
        """The keys and their age in seconds; none and 0 when there are none of this provider, or they are of a time to come."""
        if self.path is None:
            return [], 0.0
        try:
            kept = msgspec.json.decode(_own(self.path), type=Kept)
        except FileNotFoundError:
            return [], 0.0
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            logger().warning("keys of identity provider cannot be read", issuer=self.issuer, why=str(error))
            return [], 0.0
        age = time.time() - kept.fetched_at
        if (kept.issuer, kept.jwks_uri) != (self.issuer, self.jwks_uri) or age < 0:
            return [], 0.0
        return kept.keys, age


def _own(path: Path) -> bytes:
    """What a file of this process's user says; OSError when others may have written it. A link is not followed, a pipe not waited for."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError("others may have written it")
        return file.read()
