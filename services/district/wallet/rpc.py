"""The wallet over the wire."""

from typing import Any

from quanyu.district.v1 import wallet_pb2, wallet_pb2_grpc
from services.district.places.store import Venues
from services.district.wallet import rules
from services.district.wallet.store import Coupons, Locks, as_of
from services.kit.documents import as_struct, builtins, fields
from services.kit.errors import Invalid
from services.kit.house import House
from services.kit.mongo import Document
from services.kit.persons import Persons
from services.kit.unit import Unit, write


class Wallet(wallet_pb2_grpc.WalletServiceServicer):
    def __init__(self, house: House, persons: Persons, venues: Venues, coupons: Coupons, locks: Locks) -> None:
        self.units, self.clock = house.units, house.clock
        self.persons, self.venues, self.coupons, self.locks = persons, venues, coupons, locks

    async def ListCoupons(self, request: wallet_pb2.ListCouponsRequest, context: Any) -> wallet_pb2.ListCouponsResponse:
        if bool(request.consumer_id) == bool(request.brand_id):
            raise Invalid(rules.Reason.OWNER_REQUIRED, "give a consumer or a brand", field="consumer_id")
        owner: Document = {"brand_id": request.brand_id}
        if request.consumer_id:
            owner = {"consumer_id": {"$in": sorted((await self.persons.of(request.consumer_id)).ids)}}
        rows, page = await self.coupons.listed(owner, fields(request).get("state", ""), request.page, self.clock())
        return wallet_pb2.ListCouponsResponse(coupons=rows, page=page)

    async def BatchGetCoupons(self, request: wallet_pb2.BatchGetCouponsRequest, context: Any) -> wallet_pb2.BatchGetCouponsResponse:
        at = self.clock()
        return wallet_pb2.BatchGetCouponsResponse(coupons=[as_of(row, at) for row in await self.coupons.batch(request.ids)])

    @write
    async def LockCoupons(self, request: wallet_pb2.LockCouponsRequest, unit: Unit) -> wallet_pb2.LockCouponsResponse:
        spending = as_struct(fields(request), rules.Spending)
        person = await self.persons.of(request.consumer_id, unit.session)
        districts = await self.venues.districts_of(spending.store_id, unit.session)
        discounts = await self.locks.lock(unit, request.order_id, rules.ask(spending), person, districts)
        return wallet_pb2.LockCouponsResponse(discounts=builtins(discounts))

    @write
    async def ConfirmCoupons(self, request: wallet_pb2.ConfirmCouponsRequest, unit: Unit) -> wallet_pb2.ConfirmCouponsResponse:
        lock = await self.locks.confirm(unit, request.order_id)
        return wallet_pb2.ConfirmCouponsResponse(coupon_ids=lock.asked.coupon_ids)

    @write
    async def RollbackCoupons(self, request: wallet_pb2.RollbackCouponsRequest, unit: Unit) -> wallet_pb2.RollbackCouponsResponse:
        lock = await self.locks.roll_back(unit, request.order_id)
        return wallet_pb2.RollbackCouponsResponse(coupon_ids=lock.asked.coupon_ids if lock else [])
