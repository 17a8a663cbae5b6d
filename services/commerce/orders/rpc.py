"""Orders over the wire."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from quanyu.commerce.v1 import orders_pb2, orders_pb2_grpc
from quanyu.common.v1 import touch_pb2
from services.commerce.catalog.repository import CatalogRepository
from services.commerce.catalog.rules import Price
from services.commerce.orders import import_rules, payment_notices, rules
from services.commerce.orders.checkout import Checkout
from services.commerce.orders.enums import CancelReason, OrderState, PaymentMethod, Reason
from services.commerce.orders.import_rules import ImportedLine, ImportedOrder
from services.commerce.orders.model import NewOrder, Order, PaymentAsked
from services.commerce.orders.repository import OrderRepository
from services.commerce.rejects import rejects_of
from services.commerce.stock.repository import StockRepository
from services.kit import clock, errors, ids
from services.kit.enums import Scenario, Touchpoint
from services.kit.errors import Invalid, NotFound, Refusal
from services.kit.mongo.codec import as_struct, fields
from services.kit.observability.logs import logger
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.webhook_signatures import WebhookVerifier
from services.kit.settings import Settings
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

W = TypeVar("W", bound=StrEnum)


class OrderServicer(orders_pb2_grpc.OrderServiceServicer):
    def __init__(
        self, runtime: Runtime, catalog: CatalogRepository, stocks: StockRepository, store: OrderRepository, checkout: Checkout
    ) -> None:
        self.transactions, self.clock, self.encryption = runtime.transactions, runtime.clock, runtime.encryption
        self.catalog, self.stocks, self.store, self.checkout = catalog, stocks, store, checkout
        self.senders = WebhookVerifier.of(runtime.settings)
        self.payable = payable(runtime.settings)

    async def PlaceOrder(self, request: orders_pb2.PlaceOrderRequest, context: Any) -> orders_pb2.PlaceOrderResponse:
        asked = rules.check_asked(as_struct(fields(request), NewOrder))
        begun = await self._begin(request, asked)
        if not asked.coupon_ids:
            return begun
        return await self._with_coupons(request, begun.order.id)

    async def _begin(self, request: orders_pb2.PlaceOrderRequest, asked: NewOrder) -> orders_pb2.PlaceOrderResponse:
        """The order with its goods, once."""
        destination = self.encryption.encrypt(msgspec.json.encode(asked.destination).decode()) if asked.destination else None
        if asked.lines:
            return await self.checkout.place_lines(IdempotencyKey.of(request), asked, destination, self.clock())

        async def body(uow: UnitOfWork) -> orders_pb2.PlaceOrderResponse:
            return orders_pb2.PlaceOrderResponse(order=await self.checkout.place_holds(uow, asked, destination))

        return await self.transactions.run(request, orders_pb2.PlaceOrderResponse, body)

    async def _with_coupons(self, request: orders_pb2.PlaceOrderRequest, order_id: str) -> orders_pb2.PlaceOrderResponse:
        """The order with its coupons' discounts, once. Whoever repeats the call takes it up where it stopped."""
        order = await self.store.own.load(order_id)
        if order.refused:
            refused = order.refused
            raise errors.restore(refused.code, refused.reason, refused.message, refused.metadata)
        priced = await self.checkout.lock_coupons(order) if order.state is OrderState.PLACING else order

        async def body(uow: UnitOfWork) -> orders_pb2.PlaceOrderResponse:
            now = await self.store.own.load(order_id, session=uow.session)
            if now.state is OrderState.PLACING:
                now = msgspec.structs.replace(priced, version=now.version)
                return orders_pb2.PlaceOrderResponse(order=await self.store.own.replace(uow, now))
            return orders_pb2.PlaceOrderResponse(order=await self.store.own.get(order_id, session=uow.session))

        placed = await self.transactions.run(request, orders_pb2.PlaceOrderResponse, body, step="coupons")
        if placed.order.state == orders_pb2.ORDER_STATE_CANCELLED:
            # Cancelled while the wallet was locking: the lock may have come after the rollback.
            await self.checkout.roll_back(order_id)
        return placed

    async def TakePaymentNotice(self, request: orders_pb2.TakePaymentNoticeRequest, context: Any) -> orders_pb2.TakePaymentNoticeResponse:
        signed = {"id": request.request_id, "timestamp": request.timestamp, "signature": request.signature}
        self.senders.verify(request.sender, body=request.body, **signed)
        paid = payment_notices.paid(request.body)
        if paid is None:
            return orders_pb2.TakePaymentNoticeResponse()
        method = payment_notices.method_of(request.sender)
        rules.check_method(method, self.payable | {PaymentMethod.PROVIDER})
        payment_notices.check_amount(paid, await self.store.own.load(paid.order_id))
        # The notice's own bytes are no part of the idempotency record: each delivery is signed anew.
        await self._pay(
            orders_pb2.PayOrderRequest(
                request_id=f"{request.sender}:{request.request_id}",
                order_id=paid.order_id,
                method=orders_pb2.PaymentMethod.Value(method),
                sandbox_token=rules.SANDBOX_APPROVES,
            )
        )
        return orders_pb2.TakePaymentNoticeResponse(acted=True)

    async def PayOrder(self, request: orders_pb2.PayOrderRequest, context: Any) -> orders_pb2.PayOrderResponse:
        rules.check_method(as_struct(fields(request), PaymentAsked).method, self.payable)
        return await self._pay(request)

    async def _pay(self, request: orders_pb2.PayOrderRequest) -> orders_pb2.PayOrderResponse:
        asked, payment_id = as_struct(fields(request), PaymentAsked), ids.new("pay")

        async def body(uow: UnitOfWork) -> orders_pb2.PayOrderResponse:
            order = await self.store.own.apply_rule(
                uow, asked.order_id, rules.approve, payment_id=payment_id, asked=asked, at=uow.at, real_at=clock.real()
            )
            return orders_pb2.PayOrderResponse(order=order)

        approved = await self.transactions.run(request, orders_pb2.PayOrderResponse, body)
        order = await self.checkout.finish(approved.order.id)
        if order.state is OrderState.CANCELLED:
            raise rules.cancelled(order)
        return orders_pb2.PayOrderResponse(order=await self.store.own.get(order.id))

    async def CancelOrder(self, request: orders_pb2.CancelOrderRequest, context: Any) -> orders_pb2.CancelOrderResponse:
        key = IdempotencyKey.of(request)
        order = await self.store.own.load(request.order_id, writing=True)
        await self.checkout.cancel(order, CancelReason.REQUESTED, key=key)
        return orders_pb2.CancelOrderResponse(order=await self.store.own.get(order.id))

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Any) -> orders_pb2.GetOrderResponse:
        return orders_pb2.GetOrderResponse(order=await self.store.get(request.id))

    async def BatchGetOrders(self, request: orders_pb2.BatchGetOrdersRequest, context: Any) -> orders_pb2.BatchGetOrdersResponse:
        return orders_pb2.BatchGetOrdersResponse(orders=await self.store.batch(request.ids))

    async def ListOrders(self, request: orders_pb2.ListOrdersRequest, context: Any) -> orders_pb2.ListOrdersResponse:
        named = {name: id for name in ("consumer_id", "store_id", "brand_id") if (id := getattr(request, name))}
        if not named:
            raise Invalid(Reason.INVALID_FIELD, "name a consumer, a store or a brand", field="consumer_id")
        orders, page = await self.store.page(named, request.page)
        return orders_pb2.ListOrdersResponse(orders=orders, page=page)

    async def BatchListOrders(self, request: orders_pb2.BatchListOrdersRequest, context: Any) -> orders_pb2.BatchListOrdersResponse:
        found = await self.store.first_pages(*batch_lists.asked(request, "consumer_ids", "store_ids", "brand_ids"), request.first)
        return orders_pb2.BatchListOrdersResponse(lists=batch_lists.answered("key", "orders", found))

    async def WatchOrder(
        self, request: orders_pb2.WatchOrderRequest, context: Any
    ) -> AsyncGenerator[orders_pb2.WatchOrderResponse, None]:  # fmt: skip
        async with aclosing(self.store.follow(request.order_id, request.after)) as states:
            async for order, cursor in states:
                yield orders_pb2.WatchOrderResponse(order=order, cursor=cursor)

    async def GetDestination(self, request: orders_pb2.GetDestinationRequest, context: Any) -> orders_pb2.GetDestinationResponse:
        order = await self.store.own.load(request.order_id)
        if order.destination is None:
            raise NotFound(Reason.DESTINATION_MISSING, "this order is not delivered")
        return orders_pb2.GetDestinationResponse(destination=self._destination(order.destination))

    async def BatchGetDestinations(
        self, request: orders_pb2.BatchGetDestinationsRequest, context: Any
    ) -> orders_pb2.BatchGetDestinationsResponse:  # fmt: skip
        kept = await self.store.destinations(request.order_ids)
        found: list[Any] = []
        for id, destination in kept.items():
            try:
                found.append({"order_id": id, "destination": self._destination(destination)})
            except ValueError as unopened:  # one whose key is gone takes no other with it
                logger().error("destination cannot be opened", order=id, why=type(unopened).__name__)
        return orders_pb2.BatchGetDestinationsResponse(destinations=found)

    def _destination(self, kept: bytes) -> Any:
        """A destination shaped like its message."""
        return msgspec.json.decode(self.encryption.decrypt(kept))

    @transactional
    async def ImportOrders(self, request: orders_pb2.ImportOrdersRequest, uow: UnitOfWork) -> orders_pb2.ImportOrdersResponse:
        if not 0 < len(request.orders) <= import_rules.IMPORT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"1 to {import_rules.IMPORT_MAX} orders", field="orders")
        stores = await self.stocks.known_stores(order.store_id for order in request.orders)
        brands = await self.catalog.brands_of(line.variant_id for order in request.orders for line in order.lines)
        refused: dict[int, Refusal] = {}
        orders: dict[str, Order] = {}
        for index, given in enumerate(request.orders):
            try:
                if given.order_id in orders:
                    raise Invalid(Reason.ORDER_REPEATED, "this import names the order twice")
                store = stores.get(given.store_id)
                order = import_rules.order_of(
                    _row(given), batch_id=request.request_id, now=uow.at, seller_id=store.brand_id if store else None, brands=brands
                )
                orders[order.id] = order
            except Refusal as refusal:
                refused[index] = refusal
        imported = await self.store.bring(uow, request.request_id, orders)
        rejects = rejects_of(refused, [order.order_id for order in request.orders])
        return orders_pb2.ImportOrdersResponse(imported=imported, known=len(orders) - imported, rejects=rejects)


def _row(given: orders_pb2.ImportedOrder) -> ImportedOrder:
    """A row of an import, field by field: `fields` costs three times as much, and imports are long. Bounds are checked with the order."""
    if not given.HasField("paid_at"):
        raise Invalid(Reason.INVALID_FIELD, "say when it was paid", field="paid_at")
    return ImportedOrder(
        order_id=given.order_id,
        consumer_id=given.consumer_id,
        store_id=given.store_id,
        paid_at=given.paid_at.ToDatetime(UTC),
        touchpoint=_touchpoint(given.touchpoint),
        scenario=_scenario(given.scenario),
        lines=tuple(ImportedLine(line.variant_id, line.quantity, Price(line.paid.currency, line.paid.minor)) for line in given.lines),
    )


@lru_cache(maxsize=64)
def _touchpoint(value: int) -> Touchpoint:
    return _word(Touchpoint, touch_pb2.Touchpoint.DESCRIPTOR, value)


@lru_cache(maxsize=64)
def _scenario(value: int) -> Scenario:
    return _word(Scenario, touch_pb2.Scenario.DESCRIPTOR, value)


def _word(words: type[W], descriptor: Any, value: int) -> W:
    """The word of an enum's number; `Invalid` when it has none."""
    named = descriptor.values_by_number.get(value)
    if named is None:
        raise Invalid(Reason.INVALID_FIELD, f"{value} is not a {descriptor.name}", field=descriptor.name.lower())
    return words(named.name)


def payable(settings: Settings) -> frozenset[PaymentMethod]:
    """The methods that whoever pays may name; what a provider vouches for comes as its notice."""
    sandbox = settings.sandbox_payments == "on" or (settings.sandbox_payments == "auto" and settings.env == "development")
    return frozenset({PaymentMethod.SANDBOX} if sandbox else ())
