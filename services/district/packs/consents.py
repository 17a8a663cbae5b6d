"""The one question asked of another service here: which brands the person lets match them in a district."""

from collections.abc import Sequence

from quanyu.member.v1 import consent_pb2, consent_pb2_grpc
from services.kit.rpc.channel import Channels

BRANDS_MAX = 500
"""Brands of one call."""


class ConsentClient:
    """Asks member; raises `Unavailable` when it does not answer."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def granted(self, consumer_id: str, brand_ids: Sequence[str]) -> frozenset[str]:
        """Those of the brands with the person's consent for district coupons."""
        stub = consent_pb2_grpc.ConsentServiceStub(self.channels.member)
        granted: set[str] = set()
        for start in range(0, len(brand_ids), BRANDS_MAX):
            request = consent_pb2.CheckConsentsRequest(
                consumer_id=consumer_id, brand_ids=brand_ids[start : start + BRANDS_MAX], purpose=consent_pb2.PURPOSE_DISTRICT_COUPONS
            )
            granted.update((await stub.CheckConsents(request)).brand_ids)
        return frozenset(granted)
