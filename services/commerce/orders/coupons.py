"""The client of the district's wallet, where an order locks, spends and frees its coupons.

Each call has an idempotency key derived from the order id, so it may be repeated.
"""

from collections.abc import Callable
from typing import Any

import grpc

from quanyu.district.v1 import wallet_pb2, wallet_pb2_grpc
from services.commerce.orders.model import AppliedCoupon, Order
from services.kit.mongo.codec import request_fields, to_builtins, to_struct


class CouponClient:
    """Calls the district's wallet. It raises the wallet's refusals, and `Unavailable` if the wallet does not answer."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self.channel = channel

    async def lock(self, order: Order) -> list[AppliedCoupon]:
        """Locks the order's coupons, all or none, and returns the discount of each."""
        request = wallet_pb2.LockCouponsRequest(
            request_id=f"{order.id}:lock",
            order_id=order.id,
            consumer_id=order.consumer_id,
            store_id=order.store_id,
            coupon_ids=order.coupon_ids,
            lines=[wallet_pb2.CouponLine(brand_id=line.brand_id, amount=to_builtins(line.amount)) for line in order.lines],
        )
        response: wallet_pb2.LockCouponsResponse = await self._stub().LockCoupons(request)
        return [
            to_struct({"coupon_id": item.coupon_id, "brand_id": item.brand_id, "discount": request_fields(item.amount)}, AppliedCoupon)
            for item in response.discounts
        ]

    async def confirm(self, order_id: str) -> None:
        """Spends the order's coupons. `Conflict` or `NotFound` if they are no longer locked for it."""
        await self._stub().ConfirmCoupons(wallet_pb2.ConfirmCouponsRequest(request_id=f"{order_id}:confirm", order_id=order_id))

    async def roll_back(self, order_id: str) -> None:
        """Frees the order's coupons. Without locked coupons it has no effect."""
        await self._stub().RollbackCoupons(wallet_pb2.RollbackCouponsRequest(request_id=f"{order_id}:rollback", order_id=order_id))

    def _stub(self) -> Any:
        return wallet_pb2_grpc.WalletServiceStub(self.channel())
