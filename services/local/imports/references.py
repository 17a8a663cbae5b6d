"""Reference check: the ids that rows name and no import rpc checks are looked up in batches, each once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from google.protobuf.message import Message

from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc
from services.local.imports.requests import Channels, Rejected

LOOKUP_SIZE_MAX = 500
"""A look-up names at most this many ids."""
KNOWN_IDS_MAX = 100_000
"""The known ids of a kind are cleared beyond this number."""


class Kind(StrEnum):
    """The kinds of objects that rows refer to."""

    BRAND = "brand"
    CONSUMER = "consumer"


References = Iterable[tuple[str, Kind, str]]
"""The column, the kind and the id of each reference."""

REFERENCES: Mapping[str, Callable[[str, Any], References]] = {
    "products": lambda group, product: [("brand_id", Kind.BRAND, product.brand_id)],
    "consumers": lambda group, consumer: [
        ("brand_id", Kind.BRAND, group),
        *(("consent_brands", Kind.BRAND, consent.brand_id) for consent in consumer.consents),
    ],
    "bindings": lambda group, binding: [("brand_id", Kind.BRAND, group)],
    "orders": lambda group, order: [("consumer_id", Kind.CONSUMER, order.consumer_id)],
}
"""The references of an item that the importing service does not check itself, by file."""


class ReferenceCheck:
    """The ids that are known to exist in the suite."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.known: dict[Kind, set[str]] = {kind: set() for kind in Kind}

    async def find_missing(self, file: str, group: str, messages: Sequence[Message]) -> Rejected:
        """Returns the items that refer to an unknown brand or consumer."""
        if file not in REFERENCES:
            return []
        named = [list(REFERENCES[file](group, message)) for message in messages]
        ids = {kind: {id for each in named for _, of, id in each if of is kind} for kind in Kind}
        unknown = {kind: await self._find_unknown(kind, ids[kind]) for kind in Kind}
        return [
            (index, f"{kind.upper()}_NOT_FOUND", f"{column}: the suite has no {kind} {id}. Add it to {kind}s, or correct the id.")
            for index, each in enumerate(named)
            for column, kind, id in [one for one in each if one[2] in unknown[one[1]]][:1]
        ]

    async def _find_unknown(self, kind: Kind, ids: set[str]) -> set[str]:
        unchecked, found = sorted(ids - self.known[kind]), set[str]()
        for start in range(0, len(unchecked), LOOKUP_SIZE_MAX):
            found |= await LOOKUPS[kind](self.channels, unchecked[start : start + LOOKUP_SIZE_MAX])
        if len(self.known[kind]) > KNOWN_IDS_MAX:
            self.known[kind].clear()
        self.known[kind] |= found
        return set(unchecked) - found


async def _brands(channels: Channels, ids: Sequence[str]) -> set[str]:
    stub: Any = chart_pb2_grpc.ChartServiceStub(channels["organization"])
    return {brand.id for brand in (await stub.BatchGetBrands(chart_pb2.BatchGetBrandsRequest(ids=ids))).brands}


async def _consumers(channels: Channels, ids: Sequence[str]) -> set[str]:
    stub: Any = identity_pb2_grpc.IdentityServiceStub(channels["member"])
    return {consumer.id for consumer in (await stub.BatchGetConsumers(identity_pb2.BatchGetConsumersRequest(ids=ids))).consumers}


LOOKUPS = {Kind.BRAND: _brands, Kind.CONSUMER: _consumers}
