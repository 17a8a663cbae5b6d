"""The collections of coupons and of the locks orders have on them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel

from quanyu.common.v1.page_pb2 import PageRequest
from quanyu.district.v1 import wallet_pb2
from services.district.wallet import rules
from services.district.wallet.enums import CouponState
from services.district.wallet.rules import Asked, Coupon, Discount, Lock
from services.kit.enums import ScopeKind
from services.kit.errors import NotFound
from services.kit.mongo.client import Database, Document, Session, Shaped
from services.kit.mongo.codec import as_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.projections.persons import Person
from services.kit.transactions.unit_of_work import UnitOfWork

COUPONS = "coupons"
NEWEST_FIRST = [("issued_at", DESCENDING)]


class CouponRepository(ScopedCollection[Coupon]):
    """Coupons: the consumer's who holds them and the brand's that gives them."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, COUPONS, noun="COUPON", struct=Coupon, message=wallet_pb2.Coupon,
            scopes={ScopeKind.CONSUMER: "consumer_id", ScopeKind.BRAND: "brand_id"},
            indexes=[
                IndexModel([("consumer_id", ASCENDING), ("issued_at", DESCENDING), ("_id", ASCENDING)]),
                IndexModel([("brand_id", ASCENDING), ("issued_at", DESCENDING), ("_id", ASCENDING)]),
            ],
        )  # fmt: skip

    async def listed(self, owner: Document, state: str, page: PageRequest, at: datetime) -> Page:
        """A page of the coupons of `owner`, newest first, in `state` as of `at` (empty: in any). The owner is whom the caller may ask for:
        of a linked person's grants only one counts there, the person's other ids are theirs all the same."""
        rows, info = await self.unscoped.page(_listed(owner, state, at), page, order=NEWEST_FIRST)
        return [as_of(row, at) for row in rows], info

    async def first_listed(self, owners: Mapping[str, Document], state: str, first: int, at: datetime) -> dict[str, Page]:
        """The first page of each of several owners, as `listed` has it."""
        queries = {key: _listed(owner, state, at) for key, owner in owners.items()}
        found = await self.unscoped.first_pages(queries, first, order=NEWEST_FIRST)
        return {key: ([as_of(row, at) for row in rows], info) for key, (rows, info) in found.items()}

    async def standing(self, ids: Sequence[str], session: Session) -> dict[str, Coupon]:
        """Those of these coupons that exist within the caller's scope, by id."""
        rows = await self.collection.find(self.within({"_id": {"$in": list(ids)}}), session=session).to_list(None)
        return {row["_id"]: as_struct(row, Coupon) for row in rows}


def given_to(person: Person) -> Document:
    """The filter for what a person was given under any of their ids."""
    return {"consumer_id": {"$in": sorted(person.ids)}}


def _listed(owner: Document, state: str, at: datetime) -> Document:
    return {"$and": [owner, in_state(CouponState(state), at)]} if state else owner


def in_state(state: CouponState, at: datetime) -> Document:
    """The filter for coupons that are in `state` as of `at`; says what `rules.state_at` says."""
    lapsed = at - rules.LOCK_LASTS
    free: Document = {"$or": [{"state": CouponState.ISSUED}, {"state": CouponState.LOCKED, "locked_at": {"$lte": lapsed}}]}
    filters: dict[CouponState, Document] = {
        CouponState.ISSUED: free | {"expires_at": {"$gt": at}},
        CouponState.EXPIRED: free | {"expires_at": {"$lte": at}},
        CouponState.LOCKED: {"state": CouponState.LOCKED, "locked_at": {"$gt": lapsed}},
        CouponState.REDEEMED: {"state": CouponState.REDEEMED},
    }
    return filters[state]


def as_of(row: Shaped, at: datetime) -> Shaped:
    """A coupon's row with the state it is in as of `at`; a lock whose time is over is not shown."""
    coupon = as_struct(row, Coupon)
    row["state"] = rules.state_at(coupon, at)
    if rules.free(coupon, at):
        row.pop("order_id", None)
        row.pop("locked_at", None)
    return row


class CouponLockRepository(ScopedCollection[Lock]):
    """Orders' locks. No grant reaches them: they are between the order's service and the wallet."""

    def __init__(self, database: Database, coupons: CouponRepository) -> None:
        super().__init__(database, "coupon_locks", noun="LOCK", struct=Lock, scopes={})
        self.coupons = coupons

    async def standing(self, order_id: str, session: Session) -> Lock | None:
        """The order's lock, if it ever had one."""
        try:
            return await self.load(order_id, session=session, writing=True)
        except NotFound:
            return None

    async def lock(
        self, uow: UnitOfWork, order_id: str, asked: Asked, person: Person, district_ids: Collection[str]
    ) -> tuple[Discount, ...]:
        """Locks the coupons for the order of a person at a store in these districts, or answers what it holds already."""
        held = await self.standing(order_id, uow.session)
        if held is not None and rules.same(held, asked):
            return held.discounts
        before = await self.coupons.standing(asked.coupon_ids, uow.session)
        lock, locked = rules.lock(
            order_id, asked, before, owners=person.ids, district_ids=district_ids, at=uow.at, version=held.version if held else 1
        )
        for other in {coupon.order_id for coupon in before.values()} - {"", order_id}:
            await self._take_over(uow, other, but=asked.coupon_ids)
        await self._write(uow, locked)
        await (self.replace(uow, lock) if held else self.insert(uow, lock))
        return lock.discounts

    async def confirm(self, uow: UnitOfWork, order_id: str) -> Lock:
        """The order's coupons, spent."""
        held = await self.load(order_id, session=uow.session, writing=True)
        coupons = await self.coupons.standing(held.asked.coupon_ids, uow.session)
        lock, spent = rules.confirm(held, list(coupons.values()), uow.at)
        await self._write(uow, spent)
        await self.replace(uow, lock, before=held)
        return lock

    async def roll_back(self, uow: UnitOfWork, order_id: str) -> Lock | None:
        """The order's coupons, given back; None when it never locked any."""
        held = await self.standing(order_id, uow.session)
        return held and await self._give_back(uow, held, but=())

    async def _take_over(self, uow: UnitOfWork, order_id: str, but: Sequence[str]) -> None:
        """Ends a lock whose time is over: all its coupons are free, those `but` that are locked anew."""
        await self._give_back(uow, await self.load(order_id, session=uow.session, writing=True), but)

    async def _give_back(self, uow: UnitOfWork, held: Lock, but: Sequence[str]) -> Lock:
        coupons = await self.coupons.standing([id for id in held.asked.coupon_ids if id not in but], uow.session)
        lock, back = rules.roll_back(held, list(coupons.values()))
        await self._write(uow, back)
        await self.replace(uow, lock, before=held)
        return lock

    async def _write(self, uow: UnitOfWork, coupons: Iterable[Coupon]) -> None:
        for coupon in coupons:
            await self.coupons.replace(uow, coupon)
