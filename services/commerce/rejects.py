"""Rejects: the rows that a bulk import left out, in the form that every import of this service returns."""

from collections.abc import Mapping, Sequence

from quanyu.commerce.v1.reject_pb2 import Reject
from services.kit.errors import Refusal


def build_rejects(refusals: Mapping[int, Refusal], row_ids: Sequence[str]) -> list[Reject]:
    """Returns one reject for each refused row, in the order of the request. `row_ids` are the ids of all its rows."""
    return [
        Reject(index=index, row_id=row_ids[index], reason=refusal.reason, message=refusal.message)
        for index, refusal in sorted(refusals.items())
    ]
