"""Proofs of invariants. Each has its size as an argument: small in pytest, full in `python -m tests.proofs`."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.local.mongod import Mongod


@contextmanager
def mongod() -> Iterator[str]:
    """Yields the URI of a MongoDB that runs during the block, or the value of QUANYU_TEST_MONGO_URI."""
    if uri := os.environ.get("QUANYU_TEST_MONGO_URI"):
        yield uri
        return
    with tempfile.TemporaryDirectory() as folder, Mongod(Path(folder)) as started:
        yield started.uri
