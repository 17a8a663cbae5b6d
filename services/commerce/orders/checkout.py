"""An order's steps from goods to paid. Each is one transaction or one repeatable call; whatever stops in between is taken up again.

place: order and holds in one transaction (PLACING) -> the wallet locks -> discounts on the order (PLACED)
pay:   payment on the order (PAYING) -> the wallet confirms -> order PAID, holds sold, stock less, event told, in one transaction
From PAYING on an order only goes forward, unless the wallet has lost its coupons; before that it is cancelled when its time is over.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from google.protobuf.empty_pb2 import Empty
from msgspec.structs import replace

from quanyu.commerce.v1 import orders_pb2
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.orders import rules, scenario
from services.commerce.orders.coupons import CouponClient
from services.commerce.orders.enums import CancelReason, OrderState
from services.commerce.orders.model import NewOrder, Order, Refused
from services.commerce.orders.repository import ORDERS, OrderRepository
from services.commerce.stock import rules as stock_rules
from services.commerce.stock.repository import HOLDS, STOCK, Move, StockRepository, row_in
from services.commerce.stock.rules import Hold, stock_id
from services.kit import clock, errors, ids
from services.kit.errors import Conflict, NotFound, Refusal
from services.kit.mongo.client import Session, Shaped
from services.kit.mongo.codec import as_document
from services.kit.observability.logs import logger
from services.kit.projections.persons import Person
from services.kit.transactions.group_commit import ChangeSet, DocumentRef
from services.kit.transactions.group_commit import Snapshot as Counters
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork

ATTEMPTS_MAX = 8
"""Looks at an order that others keep changing."""

Place = Callable[[Sequence[Hold]], Order]


class Checkout:
    """The steps of placing, paying and cancelling."""

    def __init__(self, catalog: CatalogRepository, stocks: StockRepository, store: OrderRepository, wallet: CouponClient) -> None:
        self.catalog, self.stocks, self.store, self.wallet = catalog, stocks, store, wallet
        self.orders = store.orders

    # placing ---------------------------------------------------------------------------------------------------------

    async def place_holds(self, uow: UnitOfWork, asked: NewOrder, destination: bytes | None) -> Shaped:
        """An order of held goods. Only what is asked now must lie ahead: what a hold says may be over by the time it is ordered."""
        stock_rules.check_needed(asked.needed_by, uow.at)
        holds = [await self.stocks.holds.load(id, session=uow.session, writing=True) for id in dict.fromkeys(asked.hold_ids)]
        for hold in holds:
            if hold.consumer_id != asked.consumer_id:
                raise self.stocks.holds.missing(hold.id)
        rules.check_store(holds, asked.store_id)
        needed_by = asked.needed_by or min((hold.needed_by for hold in holds if hold.needed_by), default=None)
        variant_ids = [hold.variant_id for hold in holds]
        person = await self.store.persons.of(asked.consumer_id, uow.session)
        asked = replace(asked, needed_by=needed_by, store_id=holds[0].store_id)
        place = await self._prepare(asked, person, variant_ids, destination, uow.at, uow.session)
        order = place(holds)
        for hold in holds:
            await self.stocks.holds.replace(uow, stock_rules.order(hold, order.id, uow.at, rules.pay_by(order)), before=hold)
        return await self.store.own.insert(uow, order)

    async def place_lines(
        self, key: IdempotencyKey, asked: NewOrder, destination: bytes | None, at: datetime
    ) -> orders_pb2.PlaceOrderResponse:
        """An order of goods that are taken from the store's stock with it, all or none, unless too much is held for the consumer."""
        quantities: dict[str, int] = {}
        for line in asked.lines:
            quantities[line.variant_id] = quantities.get(line.variant_id, 0) + line.quantity
        refs = {id: DocumentRef(STOCK, stock_id(asked.store_id, id)) for id in quantities}
        hold_ids = {id: ids.new("hld") for id in quantities}
        until = await self.stocks.held_until([ref.id for ref in refs.values()])
        holder = await self.stocks.holders.who(asked.consumer_id, asked.store_id)
        place = await self._prepare(asked, holder.person, quantities, destination, at)

        def decide(state: Counters) -> ChangeSet:
            holds = [
                stock_rules.hold(
                    row_in(state, ref), id=hold_ids[id], consumer_id=asked.consumer_id, staff_brand_id=holder.brand_id,
                    quantity=quantities[id], at=at, real_at=clock.real(), needed_by=asked.needed_by, held_until=until.get(ref.id),
                )
                for id, ref in refs.items()
            ]  # fmt: skip
            order = place(holds)
            standing = [stock_rules.order(hold, order.id, at, rules.pay_by(order)) for hold in stock_rules.counted_once(holds)]
            document = as_document(order)
            return ChangeSet(
                increments={refs[hold.variant_id]: {"reserved": hold.quantity} for hold in standing},
                inserts=[(ORDERS, document), *((HOLDS, as_document(hold)) for hold in standing)],
                answer=orders_pb2.PlaceOrderResponse(order=self.orders.answer(document)),
            )

        counters = list(refs.values())
        return await self.stocks.holders.hold(key, holder, at, counters, decide, orders_pb2.PlaceOrderResponse)

    async def lock_coupons(self, order: Order) -> Order:
        """The order with what its coupons take off, not written yet. When the wallet refuses, the order is cancelled and that is raised."""
        try:
            return rules.apply_coupons(order, await self.wallet.lock(order))
        except Refusal as refusal:
            if not refusal.retryable:
                refused = Refused(refusal.code, refusal.reason, refusal.message, refusal.metadata)
                await self.cancel(order, CancelReason.COUPON_REFUSED, refused=refused)
            raise

    async def _prepare(
        self,
        asked: NewOrder,
        person: Person,
        variant_ids: Iterable[str],
        destination: bytes | None,
        at: datetime,
        session: Session = None,
    ) -> Place:
        """What makes the order of holds: all that has to be read for it is read."""
        variants = await self.catalog.known(variant_ids, session)
        visit = await self.store.visit_of(person, session)
        stores = await self.stocks.known_stores([asked.store_id], session=session) if asked.destination else {}
        order_id, real_at = ids.new("ord"), clock.real()

        def place(holds: Sequence[Hold]) -> Order:
            brand_ids = frozenset(id for hold in holds for id in (hold.seller_id, hold.brand_id))
            situation = scenario.Situation(at, asked.touchpoint, asked.needed_by, asked.scenario_hint, visit, brand_ids)
            derived, basis = scenario.derive(situation)
            return rules.place(
                holds, variants, id=order_id, at=at, real_at=real_at, scenario=derived, basis=basis, touchpoint=asked.touchpoint,
                method=asked.method, needed_by=asked.needed_by, coupon_ids=asked.coupon_ids, destination=destination,
                store=stores.get(asked.store_id), position=asked.destination.position if asked.destination else None,
                of_holds=bool(asked.hold_ids),
            )  # fmt: skip

        return place

    # paying ----------------------------------------------------------------------------------------------------------

    async def finish(self, order_id: str) -> Order:
        """Takes an order whose payment is approved to its end; one that is not being paid is answered as it stands."""
        for _ in range(ATTEMPTS_MAX):
            order = await self.orders.unscoped.load(order_id)
            if order.state is not OrderState.PAYING:
                return order
            try:
                if order.coupons:
                    await self.wallet.confirm(order.id)
            except (Conflict, NotFound):
                await self.cancel(order, CancelReason.COUPONS_LOST)
                continue
            paid, events = rules.settle(order)
            moves = [Move(after, reserved=-gone, on_hand=-gone) for after, gone in map(stock_rules.sell, await self._holds(order))]
            try:
                await self.stocks.move(None, moves, Empty(), updates=[(ORDERS, *self.orders.change(paid))], events=events)
            except Conflict:
                continue  # another call or the sweeper was faster; look again
            return paid
        raise errors.Unavailable("CONTENDED", "others keep changing this order; make the same call again")

    # cancelling ------------------------------------------------------------------------------------------------------

    async def cancel(
        self, order: Order, reason: CancelReason, *, key: IdempotencyKey | None = None, refused: Refused | None = None
    ) -> Order:
        """The order cancelled: its goods are free (held again, when they were held before and a coupon was refused), and its coupons too.

        When the wallet does not answer, the sweeper frees the coupons.
        """
        for _ in range(ATTEMPTS_MAX):
            after = rules.cancel(order, reason, clock.now())
            moves: list[Move] = []
            updates = []
            if after is not order:
                after = replace(after, refused=refused)
                back = self._hold_again if reason is CancelReason.COUPON_REFUSED and order.of_holds else stock_rules.give_back
                moves = [Move(hold, reserved=-free) for hold, free in map(back, await self._holds(order))]
                updates = [(ORDERS, *self.orders.change(after))]
            try:
                answer = orders_pb2.CancelOrderResponse(order=self.orders.answer(as_document(after)))
                await self.stocks.move(key, moves, answer, updates=updates)
            except Conflict as refusal:
                if refusal.reason != "STATE_CHANGED":
                    raise
                order, key = await self.orders.unscoped.load(order.id), None
                continue
            if after.rollback:
                await self.roll_back(after.id)
            return after
        raise errors.Unavailable("CONTENDED", "others keep changing this order; make the same call again")

    async def roll_back(self, order_id: str) -> bool:
        """Frees a cancelled order's coupons; False when the wallet does not answer: the sweeper does it later."""
        try:
            await self.wallet.roll_back(order_id)
        except Refusal as refusal:
            logger().warning("coupons not rolled back yet", order_id=order_id, reason=refusal.reason)
            return False
        await self.store.rolled_back(order_id)
        return True

    async def sweep(self) -> int:
        """Cancels what was not paid in time, finishes what was paid for, frees what is left locked; how much of it was done."""
        real_at = clock.real()
        done = [await self._sweep(order, real_at) for order in await self.store.to_sweep(real_at)]
        done += [await self.roll_back(id) for id in await self.store.to_roll_back()]
        return sum(done)

    async def _sweep(self, order: Order, real_at: datetime) -> bool:
        try:
            if rules.overdue(order, real_at):
                await self.cancel(order, CancelReason.NOT_PAID)
            else:
                await self.finish(order.id)
        except Refusal as refusal:
            # The wallet does not answer, or it was paid just now: looked at again after a while, so that the others get their turn.
            logger().warning("order not swept yet", order_id=order.id, reason=refusal.reason)
            await self.store.put_off(order, real_at + rules.FINISH_WITHIN)
            return False
        return True

    async def _holds(self, order: Order) -> list[Hold]:
        return [await self.stocks.holds.unscoped.load(line.hold_id) for line in order.lines]

    @staticmethod
    def _hold_again(hold: Hold) -> tuple[Hold, int]:
        return stock_rules.hold_again(hold, clock.now())
