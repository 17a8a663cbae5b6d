"""Idempotency: a request with a `request_id` takes effect once, and a repeat gets the first result.

The record of a result is written in the transaction of its effect. It contains the bytes of the answer; a test over the descriptors
proves that no answer of a write has a personal field. MongoDB deletes a record after RETENTION.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.message import Message
from msgspec import Struct
from pymongo import IndexModel

from services.kit import errors
from services.kit.descriptors import full_name, method_of
from services.kit.mongo.client import Database, Document, Session, ensure_indexes
from services.kit.security.caller import current_caller

COLLECTION = "idempotency_records"
"""The record of a key is {_id, fingerprint, expires_at, answer: bytes or refusal: {code, reason, message, metadata}}."""
RETENTION = timedelta(days=7)
"""A repeated request gets the first result for this long."""
REQUEST_ID_LENGTH_MAX = 128
"""A `request_id` has at most this many characters."""

Answer = TypeVar("Answer", bound=Message)


class IdempotencyKey(Struct, frozen=True):
    """The identity of a request: an id of caller, rpc and `request_id`, and a fingerprint of its bytes."""

    id: str
    fingerprint: bytes

    @classmethod
    def from_request(cls, request: Message, *, step: str = "") -> "IdempotencyKey":
        """Returns the key of the caller's request; `Invalid` if its `request_id` is missing or too long.

        `step` names a later transaction of the same rpc, which has a record of its own.
        """
        rpc = full_name(method_of(request.DESCRIPTOR))
        request_id: str = getattr(request, "request_id", "")
        if not 0 < len(request_id) <= REQUEST_ID_LENGTH_MAX:
            raise errors.Invalid(
                "REQUEST_ID_REQUIRED", f"`idempotencyKey` must have 1 to {REQUEST_ID_LENGTH_MAX} characters.", field="request_id"
            )
        body = request.SerializeToString(deterministic=True)
        name = f"{rpc}/{step}" if step else rpc
        return cls(id=f"{current_caller().id}:{name}:{request_id}", fingerprint=hashlib.sha256(body).digest())


class IdempotencyGuard:
    """The idempotency records of one transaction: replays the keys that have a record and writes those of the others."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.records: dict[str, Document] = {}
        self.written: list[Document] = []

    @classmethod
    async def read(cls, database: Database, keys: Iterable[IdempotencyKey], session: Session = None) -> "IdempotencyGuard":
        """Reads the records of these keys."""
        guard = cls(database)
        if ids := list({key.id for key in keys}):
            found = database[COLLECTION].find({"_id": {"$in": ids}}, session=session)
            guard.records = {record["_id"]: record async for record in found}
        return guard

    def replay(self, key: IdempotencyKey, answer_type: type[Answer]) -> Answer | None:
        """Returns the recorded answer, or raises the recorded refusal; None for a key without a record.

        `Conflict` REQUEST_ID_REUSED if the record is of a request with another body.
        """
        record = self.records.get(key.id)
        if record is None:
            return None
        if bytes(record["fingerprint"]) != key.fingerprint:
            raise errors.Conflict("REQUEST_ID_REUSED", "This `idempotencyKey` was used for another request. Use a new one.")
        if refused := record.get("refusal"):
            raise errors.restore(**refused)
        return answer_type.FromString(record["answer"])

    def record(self, key: IdempotencyKey, at: datetime, result: Message | errors.Refusal) -> None:
        """Takes the key's result into the records, unless it is a refusal that a repeat may not meet again."""
        record: Document = {"_id": key.id, "fingerprint": key.fingerprint, "expires_at": at + RETENTION}
        if isinstance(result, Message):
            record["answer"] = result.SerializeToString()
        elif is_decision(result):
            record["refusal"] = {"code": result.code, "reason": result.reason, "message": result.message, "metadata": result.metadata}
        else:
            return
        self.records[key.id] = record
        self.written.append(record)

    async def write(self, session: Session) -> None:
        """Writes the new records into the transaction. DuplicateKeyError or BulkWriteError if a concurrent repeat has written one."""
        if self.written:
            await self.database[COLLECTION].insert_many(self.written, session=session)


async def prepare(database: Database) -> None:
    """Creates the index by which MongoDB deletes expired records."""
    await ensure_indexes(database[COLLECTION], IndexModel("expires_at", expireAfterSeconds=0))


def is_decision(refusal: errors.Refusal) -> bool:
    """True if a repeat must get this refusal again; a passing failure and a malformed request are no decisions."""
    return not refusal.retryable and isinstance(refusal, errors.Conflict | errors.NotFound | errors.Exhausted)
