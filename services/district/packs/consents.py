"""Client of the member service: the consents of a consumer to district coupons."""

from collections.abc import Sequence

from quanyu.member.v1 import consent_pb2, consent_pb2_grpc
from services.kit.rpc.channel import Channels

BRANDS_MAX = 500
"""A call has at most this many brands."""


class ConsentClient:
    """Checks consents in the member service; raises `Unavailable` if that service is down."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def find_granted(self, consumer_id: str, brand_ids: Sequence[str]) -> frozenset[str]:
        """Returns those of the brands with the person's consent to district coupons."""
        stub = consent_pb2_grpc.ConsentServiceStub(self.channels.member)
        granted: set[str] = set()
        for start in range(0, len(brand_ids), BRANDS_MAX):
            request = consent_pb2.CheckConsentsRequest(
                consumer_id=consumer_id, brand_ids=brand_ids[start : start + BRANDS_MAX], purpose=consent_pb2.PURPOSE_DISTRICT_COUPONS
            )
            granted.update((await stub.CheckConsents(request)).brand_ids)
        return frozenset(granted)
