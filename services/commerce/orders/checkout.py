"""Checkout: the steps of an order from its goods to its payment. Each step is one transaction or one repeatable call.

place: order and holds in one transaction (PLACING) -> the wallet locks coupons -> discounts on the order (PLACED)
pay:   payment on the order (PAYING) -> the wallet spends coupons -> order paid, holds sold, stock reduced, event published (PAID)

After a failure between two steps, a repeated request or the sweeper continues. An order in PAYING becomes PAID, or is cancelled if the
wallet has lost its coupons. An order in an earlier state is cancelled when its time to pay is over.
"""

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.empty_pb2 import Empty
from msgspec.structs import replace

from quanyu.commerce.v1 import orders_pb2
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.orders import rules
from services.commerce.orders.commands import OrderDraft, PlaceLines
from services.commerce.orders.coupons import CouponClient
from services.commerce.orders.enums import CancelReason, OrderState
from services.commerce.orders.model import CouponRefusal, NewOrder, Order
from services.commerce.orders.repository import ORDERS, OrderRepository
from services.commerce.stock import rules as stock_rules
from services.commerce.stock.repository import STOCK, HoldChange, StockRepository
from services.commerce.stock.rules import Hold, stock_id
from services.kit import clock, errors, ids
from services.kit.errors import Conflict, NotFound, Refusal
from services.kit.mongo.client import MessageDocument, Session
from services.kit.mongo.codec import to_document
from services.kit.observability.logs import logger
from services.kit.projections.persons import Person
from services.kit.transactions.group_commit import DocumentRef
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork

ATTEMPTS_MAX = 8
"""A step reads its order at most this often while concurrent calls change it."""


class Checkout:
    """Places, pays and cancels orders."""

    def __init__(self, catalog: CatalogRepository, stocks: StockRepository, repository: OrderRepository, wallet: CouponClient) -> None:
        self.catalog, self.stocks, self.repository, self.wallet = catalog, stocks, repository, wallet
        self.orders = repository.orders

    # placing ---------------------------------------------------------------------------------------------------------

    async def place_holds(self, uow: UnitOfWork, new: NewOrder, destination: bytes | None) -> MessageDocument:
        """Places an order of held goods and returns it.

        The request's own `needed_by` must lie ahead. That of a hold may have passed since.
        """
        stock_rules.check_needed_by(new.needed_by, uow.at)
        holds = [await self.stocks.holds.load(id, session=uow.session, writing=True) for id in dict.fromkeys(new.hold_ids)]
        for hold in holds:
            if hold.consumer_id != new.consumer_id:
                raise self.stocks.holds.not_found(hold.id)
        rules.check_store(holds, new.store_id)
        needed_by = new.needed_by or min((hold.needed_by for hold in holds if hold.needed_by), default=None)
        variant_ids = [hold.variant_id for hold in holds]
        person = await self.repository.persons.find(new.consumer_id, uow.session)
        new = replace(new, needed_by=needed_by, store_id=holds[0].store_id)
        draft = await self._prepare(new, person, variant_ids, destination, uow.at, uow.session)
        order = draft(holds)
        for hold in holds:
            await self.stocks.holds.replace(uow, stock_rules.order(hold, order.id, uow.at, rules.pay_by(order)), before=hold)
        return await self.repository.owned.insert(uow, order)

    async def place_lines(
        self, key: IdempotencyKey, asked: NewOrder, destination: bytes | None, at: datetime
    ) -> orders_pb2.PlaceOrderResponse:
        """Places an order and holds its goods in the same transaction, all or none, and returns it.

        `Exhausted` if a line is out of stock or the consumer's hold quota is used up.
        """
        quantities: dict[str, int] = {}
        for line in asked.lines:
            quantities[line.variant_id] = quantities.get(line.variant_id, 0) + line.quantity
        refs = {id: DocumentRef(STOCK, stock_id(asked.store_id, id)) for id in quantities}
        hold_ids = {id: ids.new("hld") for id in quantities}
        until = await self.stocks.find_held_until([ref.id for ref in refs.values()])
        holder = await self.stocks.hold_quota.find_holder(asked.consumer_id, asked.store_id)
        draft = await self._prepare(asked, holder.person, quantities, destination, at)

        held_until = {id: until.get(ref.id) for id, ref in refs.items()}
        command = PlaceLines(draft, quantities, refs, hold_ids, held_until, holder.brand_id, self.orders)
        return await self.stocks.hold_quota.commit_hold(key, holder, at, list(refs.values()), command, orders_pb2.PlaceOrderResponse)

    async def lock_coupons(self, order: Order) -> Order:
        """Locks the order's coupons and returns it with their discounts, not written yet.

        If the wallet refuses, cancels the order and raises the refusal.
        """
        try:
            return rules.apply_coupons(order, await self.wallet.lock(order))
        except Refusal as refusal:
            if not refusal.retryable:
                refused = CouponRefusal(refusal.code, refusal.reason, refusal.message, refusal.metadata)
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
    ) -> OrderDraft:
        """Reads everything that an order needs besides its holds."""
        variants = await self.catalog.find_variants(variant_ids, session)
        visit = await self.repository.find_visit_of(person, session)
        stores = await self.stocks.find_stores([asked.store_id], session=session) if asked.destination else {}
        store = stores.get(asked.store_id)
        return OrderDraft(asked, ids.new("ord"), variants, visit, store, destination, at, clock.system_now())

    # paying ----------------------------------------------------------------------------------------------------------

    async def finish(self, order_id: str) -> Order:
        """Completes an order whose payment is approved and returns it. An order in another state is returned unchanged.

        `Unavailable` if the wallet does not answer or concurrent calls keep changing the order.
        """
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
            sold = map(stock_rules.sell, await self._load_holds(order))
            changes = [HoldChange(hold, reserved=-quantity, on_hand=-quantity) for hold, quantity in sold]
            try:
                await self.stocks.apply_hold_changes(
                    None, changes, Empty(), updates=[(ORDERS, *self.orders.build_update(paid))], events=events
                )
            except Conflict:
                continue  # another call or the sweeper changed the order first; read it again
            return paid
        raise errors.Unavailable("CONTENDED", "Concurrent calls keep changing this order. Retry with the same `idempotencyKey`.")

    # cancelling ------------------------------------------------------------------------------------------------------

    async def cancel(
        self, order: Order, reason: CancelReason, *, key: IdempotencyKey | None = None, refused: CouponRefusal | None = None
    ) -> Order:
        """Cancels an order, frees its goods and its coupons, and returns it.

        Goods that were held before the order are held again if a coupon was refused. If the wallet does not answer, the sweeper frees
        the coupons later. `Conflict` if the order is paid, `Unavailable` if concurrent calls keep changing it.
        """
        for _ in range(ATTEMPTS_MAX):
            after = rules.cancel(order, reason, clock.now())
            changes: list[HoldChange] = []
            updates = []
            if after is not order:
                after = replace(after, refused=refused)
                give_back = self._hold_again if reason is CancelReason.COUPON_REFUSED and order.of_holds else stock_rules.give_back
                changes = [HoldChange(hold, reserved=-freed) for hold, freed in map(give_back, await self._load_holds(order))]
                updates = [(ORDERS, *self.orders.build_update(after))]
            try:
                answer = orders_pb2.CancelOrderResponse(order=self.orders.project(to_document(after)))
                await self.stocks.apply_hold_changes(key, changes, answer, updates=updates)
            except Conflict as refusal:
                if refusal.reason != "STATE_CHANGED":
                    raise
                order, key = await self.orders.unscoped.load(order.id), None
                continue
            if after.rollback:
                await self.roll_back(after.id)
            return after
        raise errors.Unavailable("CONTENDED", "Concurrent calls keep changing this order. Retry with the same `idempotencyKey`.")

    async def roll_back(self, order_id: str) -> bool:
        """Frees a cancelled order's coupons. Returns False if the wallet does not answer; the sweeper retries."""
        try:
            await self.wallet.roll_back(order_id)
        except Refusal as refusal:
            logger().warning("coupons not rolled back yet", order_id=order_id, reason=refusal.reason)
            return False
        await self.repository.mark_rolled_back(order_id)
        return True

    async def sweep(self) -> int:
        """Cancels unpaid orders, completes paid ones, and frees coupons that are still locked. Returns how many succeeded."""
        real_at = clock.system_now()
        done = [await self._sweep(order, real_at) for order in await self.repository.list_to_sweep(real_at)]
        done += [await self.roll_back(id) for id in await self.repository.list_to_roll_back()]
        return sum(done)

    async def _sweep(self, order: Order, real_at: datetime) -> bool:
        try:
            if rules.is_overdue(order, real_at):
                await self.cancel(order, CancelReason.NOT_PAID)
            else:
                await self.finish(order.id)
        except Refusal as refusal:
            # The wallet does not answer, or the order was just paid. A later sweep retries, so that this order does not block others.
            logger().warning("order not swept yet", order_id=order.id, reason=refusal.reason)
            await self.repository.postpone_sweep(order, real_at + rules.FINISH_WITHIN)
            return False
        return True

    async def _load_holds(self, order: Order) -> list[Hold]:
        return [await self.stocks.holds.unscoped.load(line.hold_id) for line in order.lines]

    @staticmethod
    def _hold_again(hold: Hold) -> tuple[Hold, int]:
        return stock_rules.hold_again(hold, clock.now())
