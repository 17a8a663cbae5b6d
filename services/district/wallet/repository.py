"""Collections of coupons and of the locks that orders have on them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import wallet_pb2
from services.district.wallet import rules
from services.district.wallet.enums import CouponState
from services.district.wallet.rules import Coupon, Discount, Lock, LockTerms
from services.kit.enums import ScopeKind
from services.kit.errors import NotFound
from services.kit.mongo.client import Database, Document, MessageDocument, Session
from services.kit.mongo.codec import to_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.projections.persons import Person
from services.kit.transactions.unit_of_work import UnitOfWork

COUPONS = "coupons"
"""The name of the collection of coupons."""
NEWEST_FIRST = [("issued_at", DESCENDING)]
"""The order of coupons and packs in lists."""


class CouponRepository(ScopedCollection[Coupon]):
    """The coupons, in the scope of the consumer that holds them and of the brand that issued them."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, COUPONS, noun="COUPON", struct=Coupon, message=wallet_pb2.Coupon,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_id"},
            indexes=[
                IndexModel([("consumer_id", ASCENDING), ("issued_at", DESCENDING), ("_id", ASCENDING)]),
                IndexModel([("brand_id", ASCENDING), ("issued_at", DESCENDING), ("_id", ASCENDING)]),
            ],
        )  # fmt: skip

    async def list_page(self, owner: Document, state: str, page: PageRequest, at: datetime) -> Page:
        """Returns a page of the coupons that the filter `owner` finds, newest first, in `state` as of `at` (empty: in any state).

        The scope does not apply: the caller was authorized for one consumer id of a person and reads the coupons of all ids.
        """
        coupons, info = await self.unscoped.page(_build_list_filter(owner, state, at), page, order=NEWEST_FIRST)
        return [show_state(coupon, at) for coupon in coupons], info

    async def list_first_pages(self, owners: Mapping[str, Document], state: str, first: int, at: datetime) -> dict[str, Page]:
        """Returns the first page of each owner's coupons, like `list_page`."""
        queries = {key: _build_list_filter(owner, state, at) for key, owner in owners.items()}
        found = await self.unscoped.first_pages(queries, first, order=NEWEST_FIRST)
        return {key: ([show_state(coupon, at) for coupon in coupons], info) for key, (coupons, info) in found.items()}

    async def find_by_ids(self, ids: Sequence[str], session: Session) -> dict[str, Coupon]:
        """Returns the existing coupons within the caller's scope, by id."""
        documents = await self.collection.find(self.restrict({"_id": {"$in": list(ids)}}), session=session).to_list(None)
        return {document["_id"]: to_struct(document, Coupon) for document in documents}


def build_owner_filter(person: Person) -> Document:
    """Returns the filter for coupons or packs of a person, under all of their consumer ids."""
    return {"consumer_id": {"$in": sorted(person.ids)}}


def _build_list_filter(owner: Document, state: str, at: datetime) -> Document:
    return {"$and": [owner, build_state_filter(CouponState(state), at)]} if state else owner


def build_state_filter(state: CouponState, at: datetime) -> Document:
    """Returns the filter for coupons that are in `state` as of `at`; it agrees with `rules.compute_state`."""
    expired = at - rules.LOCK_DURATION
    unlocked: Document = {"$or": [{"state": CouponState.ISSUED}, {"state": CouponState.LOCKED, "locked_at": {"$lte": expired}}]}
    filters: dict[CouponState, Document] = {
        CouponState.ISSUED: unlocked | {"expires_at": {"$gt": at}},
        CouponState.EXPIRED: unlocked | {"expires_at": {"$lte": at}},
        CouponState.LOCKED: {"state": CouponState.LOCKED, "locked_at": {"$gt": expired}},
        CouponState.REDEEMED: {"state": CouponState.REDEEMED},
    }
    return filters[state]


def show_state(document: MessageDocument, at: datetime) -> MessageDocument:
    """Returns a coupon with its state as of `at` and without an expired lock."""
    coupon = to_struct(document, Coupon)
    document["state"] = rules.compute_state(coupon, at)
    if rules.is_unlocked(coupon, at):
        document.pop("order_id", None)
        document.pop("locked_at", None)
    return document


class CouponLockRepository(ScopedCollection[Lock]):
    """The locks of orders. They are in no scope: only the service that owns the orders uses them."""

    def __init__(self, database: Database, coupons: CouponRepository) -> None:
        super().__init__(database, "coupon_locks", noun="LOCK", struct=Lock, scopes={})
        self.coupons = coupons

    async def find_lock(self, order_id: str, session: Session) -> Lock | None:
        """Returns the order's lock, also a released one; None if the order never had one."""
        try:
            return await self.load(order_id, session=session, writing=True)
        except NotFound:
            return None

    async def lock(
        self, uow: UnitOfWork, order_id: str, terms: LockTerms, person: Person, district_ids: Collection[str]
    ) -> tuple[Discount, ...]:
        """Locks coupons for a person's order at a store of these districts; a repeat returns the existing discounts."""
        current = await self.find_lock(order_id, uow.session)
        if current is not None and rules.is_repeat(current, terms):
            return current.discounts
        before = await self.coupons.find_by_ids(terms.coupon_ids, uow.session)
        lock, locked = rules.lock(
            order_id, terms, before, owners=person.ids, district_ids=district_ids, at=uow.at, version=current.version if current else 1
        )
        for other in {coupon.order_id for coupon in before.values()} - {"", order_id}:
            await self._release_expired(uow, other, except_ids=terms.coupon_ids)
        await self._save_coupons(uow, locked)
        await (self.replace(uow, lock) if current else self.insert(uow, lock))
        return lock.discounts

    async def confirm(self, uow: UnitOfWork, order_id: str) -> Lock:
        """Redeems the order's coupons; returns the confirmed lock."""
        current = await self.load(order_id, session=uow.session, writing=True)
        coupons = await self.coupons.find_by_ids(current.asked.coupon_ids, uow.session)
        lock, redeemed = rules.confirm(current, list(coupons.values()), uow.at)
        await self._save_coupons(uow, redeemed)
        await self.replace(uow, lock, before=current)
        return lock

    async def roll_back(self, uow: UnitOfWork, order_id: str) -> Lock | None:
        """Rolls the order's coupons back; returns the released lock, or None if the order never had one."""
        current = await self.find_lock(order_id, uow.session)
        return current and await self._release(uow, current, except_ids=())

    async def _release_expired(self, uow: UnitOfWork, order_id: str, except_ids: Sequence[str]) -> None:
        """Releases an expired lock and its coupons, except those that another order is locking."""
        await self._release(uow, await self.load(order_id, session=uow.session, writing=True), except_ids)

    async def _release(self, uow: UnitOfWork, current: Lock, except_ids: Sequence[str]) -> Lock:
        coupons = await self.coupons.find_by_ids([id for id in current.asked.coupon_ids if id not in except_ids], uow.session)
        lock, issued = rules.roll_back(current, list(coupons.values()))
        await self._save_coupons(uow, issued)
        await self.replace(uow, lock, before=current)
        return lock

    async def _save_coupons(self, uow: UnitOfWork, coupons: Iterable[Coupon]) -> None:
        for coupon in coupons:
            await self.coupons.replace(uow, coupon)
