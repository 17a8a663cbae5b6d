"""WalletService: lists coupons, and locks, redeems and rolls them back for orders."""

from collections.abc import Sequence
from typing import Any

from quanyu.district.v1 import wallet_pb2, wallet_pb2_grpc
from services.district.places.repository import VenueRepository
from services.district.wallet import rules
from services.district.wallet.enums import Reason
from services.district.wallet.repository import CouponLockRepository, CouponRepository, build_owner_filter, show_state
from services.kit.errors import Invalid
from services.kit.mongo.client import Document
from services.kit.mongo.codec import request_fields, to_builtins, to_struct
from services.kit.projections.persons import PersonProjection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.authorization import FIELD_KINDS
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork, transactional


class WalletServicer(wallet_pb2_grpc.WalletServiceServicer):
    def __init__(
        self, runtime: Runtime, persons: PersonProjection, venues: VenueRepository, coupons: CouponRepository, locks: CouponLockRepository
    ) -> None:
        self.transactions, self.clock = runtime.transactions, runtime.clock
        self.persons, self.venues, self.coupons, self.locks = persons, venues, coupons, locks

    async def ListCoupons(self, request: wallet_pb2.ListCouponsRequest, context: Any) -> wallet_pb2.ListCouponsResponse:
        if bool(request.consumer_id) == bool(request.brand_id):
            raise Invalid(Reason.OWNER_REQUIRED, "Give either `consumerId` or `brandId`.", field="consumer_id")
        name = "consumer_id" if request.consumer_id else "brand_id"
        (owner,) = (await self._build_owner_filters(name, [getattr(request, name)])).values()
        coupons, page = await self.coupons.list_page(owner, request_fields(request).get("state", ""), request.page, self.clock())
        return wallet_pb2.ListCouponsResponse(coupons=coupons, page=page)

    async def BatchListCoupons(self, request: wallet_pb2.BatchListCouponsRequest, context: Any) -> wallet_pb2.BatchListCouponsResponse:
        name, ids = batch_lists.selected_ids(request, "consumer_ids", "brand_ids")
        owners = await self._build_owner_filters(name, [id for id in ids if current_caller().can_reach(FIELD_KINDS[name], id)])
        found = await self.coupons.list_first_pages(owners, request_fields(request).get("state", ""), request.first, self.clock())
        return wallet_pb2.BatchListCouponsResponse(owners=batch_lists.to_lists("key", "coupons", found))

    async def _build_owner_filters(self, name: str, ids: Sequence[str]) -> dict[str, Document]:
        """Returns the filter for the coupons of each of these consumers or brands."""
        if name == "brand_id":
            return {id: {name: id} for id in ids}
        return {id: build_owner_filter(person) for id, person in (await self.persons.find_many(ids)).items()}

    async def BatchGetCoupons(self, request: wallet_pb2.BatchGetCouponsRequest, context: Any) -> wallet_pb2.BatchGetCouponsResponse:
        at, coupons = self.clock(), await self.coupons.batch(request.ids)
        return wallet_pb2.BatchGetCouponsResponse(coupons=[show_state(coupon, at) for coupon in coupons])

    @transactional
    async def LockCoupons(self, request: wallet_pb2.LockCouponsRequest, uow: UnitOfWork) -> wallet_pb2.LockCouponsResponse:
        lock_request = to_struct(request_fields(request), rules.LockRequest)
        person = await self.persons.find(request.consumer_id, uow.session)
        districts = await self.venues.find_districts(lock_request.store_id, uow.session)
        discounts = await self.locks.lock(uow, request.order_id, rules.build_terms(lock_request), person, districts)
        return wallet_pb2.LockCouponsResponse(discounts=to_builtins(discounts))

    @transactional
    async def ConfirmCoupons(self, request: wallet_pb2.ConfirmCouponsRequest, uow: UnitOfWork) -> wallet_pb2.ConfirmCouponsResponse:
        lock = await self.locks.confirm(uow, request.order_id)
        return wallet_pb2.ConfirmCouponsResponse(coupon_ids=lock.asked.coupon_ids)

    @transactional
    async def RollbackCoupons(self, request: wallet_pb2.RollbackCouponsRequest, uow: UnitOfWork) -> wallet_pb2.RollbackCouponsResponse:
        lock = await self.locks.roll_back(uow, request.order_id)
        return wallet_pb2.RollbackCouponsResponse(coupon_ids=lock.asked.coupon_ids if lock else [])
