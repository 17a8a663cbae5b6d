"""Once-records: what was answered to a `request_id`, so that a repeat changes nothing and hears the same.

A record is written in the transaction of the effect it stands for. It holds the answer's bytes; a test over the descriptors
holds that no answer of a write carries a personal field, so none gets in here. Records are kept `KEPT` and then forgotten.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.message import Message
from msgspec import Struct
from pymongo import IndexModel

from services.kit import errors
from services.kit.mongo import Database, Document, Session, ensure

COLLECTION = "once"
KEPT = timedelta(days=7)
REQUEST_ID_LENGTH_MAX = 128


class Once(Struct, frozen=True):
    """One request to be carried out once: its id, scoped to the caller and the rpc, and the fingerprint of its body."""

    id: str
    fingerprint: bytes

    @classmethod
    def of(cls, caller_id: str, method: str, request: Message) -> "Once":
        """The identity of `request` for this caller; `Invalid` when its `request_id` is missing or too long."""
        request_id: str = getattr(request, "request_id", "")
        if not 0 < len(request_id) <= REQUEST_ID_LENGTH_MAX:
            raise errors.Invalid("REQUEST_ID_REQUIRED", f"give a key of 1 to {REQUEST_ID_LENGTH_MAX} characters", field="request_id")
        body = request.SerializeToString(deterministic=True)
        return cls(id=f"{caller_id}:{method}:{request_id}", fingerprint=hashlib.sha256(body).digest())

    def record(self, at: datetime, *, answer: Message | None = None, refusal: errors.Refusal | None = None) -> Document:
        """The document that stands for this request from now on."""
        record: Document = {"_id": self.id, "fingerprint": self.fingerprint, "expires_at": at + KEPT}
        if refusal is not None:
            record["refusal"] = {
                "kind": type(refusal).__name__,
                "reason": refusal.reason,
                "message": refusal.message,
                "metadata": refusal.metadata,
            }
        if answer is not None:
            record["answer"] = answer.SerializeToString()
        return record

    def replay(self, record: Document, answer_type: type[Any]) -> Any:
        """The first answer again, or the first refusal raised again; `Conflict` when the body differs from the first one's."""
        if bytes(record["fingerprint"]) != self.fingerprint:
            raise errors.Conflict("REQUEST_ID_REUSED", "this key was used for another request; take a new one")
        if refused := record.get("refusal"):
            refusal = next(kind for kind in errors.FAMILY if kind.__name__ == refused["kind"])(refused["reason"], refused["message"])
            refusal.metadata = dict(refused["metadata"])
            raise refusal
        return answer_type.FromString(record["answer"])


async def prepare(database: Database) -> None:
    """The index that forgets old records."""
    await ensure(database[COLLECTION], IndexModel("expires_at", expireAfterSeconds=0))


async def find(database: Database, ids: list[str], session: Session = None) -> dict[str, Document]:
    """The records of these ids that exist."""
    return {record["_id"]: record async for record in database[COLLECTION].find({"_id": {"$in": ids}}, session=session)}


def worth_keeping(refusal: errors.Refusal) -> bool:
    """Whether a repeat must hear this refusal again: a decision is kept, a passing failure or a malformed request is not."""
    return not refusal.retryable and isinstance(refusal, errors.Conflict | errors.NotFound | errors.Exhausted)
