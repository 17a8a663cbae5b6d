"""Commands of orders: frozen callables with the data of one decision, so that a stack trace shows their names.

`OrderDraft` makes an order from holds; `PlaceLines` is the decision of the group commit that holds the goods and places the order.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from quanyu.commerce.v1 import orders_pb2
from services.commerce.catalog.rules import Variant
from services.commerce.orders import rules, scenario
from services.commerce.orders.model import NewOrder, Order
from services.commerce.orders.repository import ORDERS
from services.commerce.stock import rules as stock_rules
from services.commerce.stock.repository import HOLDS, row_in
from services.commerce.stock.rules import Hold, Store
from services.kit import clock
from services.kit.mongo.codec import to_document
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, Snapshot


class OrderDraft(Struct, frozen=True):
    """A new order with everything that was read for it; calling it with the holds of its goods makes the order."""

    request: NewOrder
    order_id: str
    variants: Mapping[str, Variant]
    visit: scenario.Visit | None
    store: Store | None
    destination: bytes | None
    at: datetime
    real_at: datetime

    def __call__(self, holds: Sequence[Hold]) -> Order:
        request = self.request
        brand_ids = frozenset(id for hold in holds for id in (hold.seller_id, hold.brand_id))
        situation = scenario.Situation(self.at, request.touchpoint, request.needed_by, request.scenario_hint, self.visit, brand_ids)
        derived, basis = scenario.derive(situation)
        return rules.place(
            holds, self.variants, id=self.order_id, at=self.at, real_at=self.real_at, scenario=derived, basis=basis,
            touchpoint=request.touchpoint, method=request.method, needed_by=request.needed_by, coupon_ids=request.coupon_ids,
            destination=self.destination, store=self.store, position=request.destination.position if request.destination else None,
            of_holds=bool(request.hold_ids),
        )  # fmt: skip


class PlaceLines(Struct, frozen=True):
    """Holds the goods of all lines and places their order, or refuses. All mappings have the ids of the variants as keys."""

    draft: OrderDraft
    quantities: Mapping[str, int]
    refs: Mapping[str, DocumentRef]
    hold_ids: Mapping[str, str]
    held_until: Mapping[str, datetime | None]
    staff_brand_id: str | None
    orders: ScopedCollection[Order]

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        request, at = self.draft.request, self.draft.at
        holds = [
            stock_rules.hold(
                row_in(snapshot, ref), id=self.hold_ids[id], consumer_id=request.consumer_id, staff_brand_id=self.staff_brand_id,
                quantity=self.quantities[id], at=at, real_at=clock.system_now(), needed_by=request.needed_by,
                held_until=self.held_until[id],
            )
            for id, ref in self.refs.items()
        ]  # fmt: skip
        order = self.draft(holds)
        ordered = [stock_rules.order(hold, order.id, at, rules.pay_by(order)) for hold in stock_rules.counted_once(holds)]
        document = to_document(order)
        return ChangeSet(
            increments={self.refs[hold.variant_id]: {"reserved": hold.quantity} for hold in ordered},
            inserts=[(ORDERS, document), *((HOLDS, to_document(hold)) for hold in ordered)],
            answer=orders_pb2.PlaceOrderResponse(order=self.orders.project(document)),
        )
