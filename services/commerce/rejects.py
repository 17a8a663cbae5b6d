"""The rows a bulk import left out, as every import of this service tells them."""

from collections.abc import Mapping, Sequence

from quanyu.commerce.v1.reject_pb2 import Reject
from services.kit.errors import Refusal


def rejects_of(refusals: Mapping[int, Refusal], row_ids: Sequence[str]) -> list[Reject]:
    """One for each refused row, in the order of the request; `row_ids` are those of all its rows."""
    return [
        Reject(index=index, row_id=row_ids[index], reason=refusal.reason, message=refusal.message)
        for index, refusal in sorted(refusals.items())
    ]
