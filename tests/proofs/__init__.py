"""The heavy invariants, each a function with its size as an argument: small in pytest, full by `python -m tests.proofs`."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.local.mongod import Mongod


@contextmanager
def mongod() -> Iterator[str]:
    """The URI of a real MongoDB for the time of the block; with QUANYU_TEST_MONGO_URI the one that stands there."""
    if uri := os.environ.get("QUANYU_TEST_MONGO_URI"):
        yield uri
        return
    with tempfile.TemporaryDirectory() as folder, Mongod(Path(folder)) as started:
        yield started.uri
