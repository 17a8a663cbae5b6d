"""The ids that rows name and no import rpc checks: each is asked for once, a batch at a time, so that no row speaks of nobody."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from google.protobuf.message import Message

from quanyu.member.v1 import identity_pb2, identity_pb2_grpc
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc
from services.local.imports.requests import Channels, Rejected

ASKED_MAX = 500
KNOWN_MAX = 100_000
"""Ids remembered of a kind; beyond, all are forgotten and asked for again."""


class Kind(StrEnum):
    BRAND = "brand"
    CONSUMER = "consumer"


Named = Iterable[tuple[Kind, str]]

NAMED: Mapping[str, Callable[[str, Any], Named]] = {
    "products": lambda group, product: [(Kind.BRAND, product.brand_id)],
    "consumers": lambda group, consumer: [(Kind.BRAND, id) for id in (group, *(consent.brand_id for consent in consumer.consents))],
    "bindings": lambda group, binding: [(Kind.BRAND, group)],
    "orders": lambda group, order: [(Kind.CONSUMER, order.consumer_id)],
}
"""What an item of a file names, besides what the service that takes it looks up itself."""


class References:
    """Which ids stand in the suite, as far as it was asked."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.known: dict[Kind, set[str]] = {kind: set() for kind in Kind}

    async def missing(self, file: str, group: str, messages: Sequence[Message]) -> Rejected:
        """The items that name somebody nobody knows."""
        if file not in NAMED:
            return []
        named = [list(NAMED[file](group, message)) for message in messages]
        unknown = {(kind, id) for kind in Kind for id in await self._unknown(kind, {id for each in named for of, id in each if of is kind})}
        return [
            (index, f"{kind.upper()}_NOT_FOUND", f"there is no {kind} {id}")
            for index, each in enumerate(named)
            for kind, id in [one for one in each if one in unknown][:1]
        ]

    async def _unknown(self, kind: Kind, ids: set[str]) -> set[str]:
        asked, found = sorted(ids - self.known[kind]), set[str]()
        for start in range(0, len(asked), ASKED_MAX):
            found |= await STANDING[kind](self.channels, asked[start : start + ASKED_MAX])
        if len(self.known[kind]) > KNOWN_MAX:
            self.known[kind].clear()
        self.known[kind] |= found
        return set(asked) - found


async def _brands(channels: Channels, ids: Sequence[str]) -> set[str]:
    stub: Any = chart_pb2_grpc.ChartServiceStub(channels["organization"])
    return {brand.id for brand in (await stub.BatchGetBrands(chart_pb2.BatchGetBrandsRequest(ids=ids))).brands}


async def _consumers(channels: Channels, ids: Sequence[str]) -> set[str]:
    stub: Any = identity_pb2_grpc.IdentityServiceStub(channels["member"])
    return {consumer.id for consumer in (await stub.BatchGetConsumers(identity_pb2.BatchGetConsumersRequest(ids=ids))).consumers}


STANDING = {Kind.BRAND: _brands, Kind.CONSUMER: _consumers}
