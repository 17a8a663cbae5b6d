"""The gRPC servicer of orders."""

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
from services.commerce.orders.model import NewOrder, Order, PaymentRequest
from services.commerce.orders.repository import OrderRepository
from services.commerce.rejects import build_rejects
from services.commerce.stock.repository import StockRepository
from services.kit import clock, errors, ids
from services.kit.enums import Scenario, Touchpoint
from services.kit.errors import Invalid, NotFound, Refusal
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.observability.logs import logger
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.security.webhook_signatures import WebhookVerifier
from services.kit.settings import Settings
from services.kit.transactions.idempotency import IdempotencyKey
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

E = TypeVar("E", bound=StrEnum)


class OrderServicer(orders_pb2_grpc.OrderServiceServicer):
    def __init__(
        self, runtime: Runtime, catalog: CatalogRepository, stocks: StockRepository, repository: OrderRepository, checkout: Checkout
    ) -> None:
        self.transactions, self.clock, self.encryption = runtime.transactions, runtime.clock, runtime.encryption
        self.catalog, self.stocks, self.repository, self.checkout = catalog, stocks, repository, checkout
        self.webhook_verifier = WebhookVerifier.from_settings(runtime.settings)
        self.payment_methods = accepted_payment_methods(runtime.settings)

    async def PlaceOrder(self, request: orders_pb2.PlaceOrderRequest, context: Any) -> orders_pb2.PlaceOrderResponse:
        new = rules.check_new_order(to_struct(request_fields(request), NewOrder))
        placed = await self._place(request, new)
        if not new.coupon_ids:
            return placed
        return await self._apply_coupons(request, placed.order.id)

    async def _place(self, request: orders_pb2.PlaceOrderRequest, new: NewOrder) -> orders_pb2.PlaceOrderResponse:
        """Places the order with its goods, once."""
        destination = self.encryption.encrypt(msgspec.json.encode(new.destination).decode()) if new.destination else None
        if new.lines:
            return await self.checkout.place_lines(IdempotencyKey.from_request(request), new, destination, self.clock())

        async def body(uow: UnitOfWork) -> orders_pb2.PlaceOrderResponse:
            return orders_pb2.PlaceOrderResponse(order=await self.checkout.place_holds(uow, new, destination))

        return await self.transactions.run(request, orders_pb2.PlaceOrderResponse, body)

    async def _apply_coupons(self, request: orders_pb2.PlaceOrderRequest, order_id: str) -> orders_pb2.PlaceOrderResponse:
        """Applies the discounts of the order's coupons, once. A repeated call continues where the first one stopped."""
        order = await self.repository.owned.load(order_id)
        if order.refused:
            refused = order.refused
            raise errors.restore(refused.code, refused.reason, refused.message, refused.metadata)
        priced = await self.checkout.lock_coupons(order) if order.state is OrderState.PLACING else order

        async def body(uow: UnitOfWork) -> orders_pb2.PlaceOrderResponse:
            current = await self.repository.owned.load(order_id, session=uow.session)
            if current.state is OrderState.PLACING:
                current = msgspec.structs.replace(priced, version=current.version)
                return orders_pb2.PlaceOrderResponse(order=await self.repository.owned.replace(uow, current))
            return orders_pb2.PlaceOrderResponse(order=await self.repository.owned.get(order_id, session=uow.session))

        placed = await self.transactions.run(request, orders_pb2.PlaceOrderResponse, body, step="coupons")
        if placed.order.state == orders_pb2.ORDER_STATE_CANCELLED:
            # The order was cancelled while the wallet locked its coupons: the lock may have followed the rollback.
            await self.checkout.roll_back(order_id)
        return placed

    async def TakePaymentNotice(self, request: orders_pb2.TakePaymentNoticeRequest, context: Any) -> orders_pb2.TakePaymentNoticeResponse:
        signed = {"id": request.request_id, "timestamp": request.timestamp, "signature": request.signature}
        self.webhook_verifier.verify(request.sender, body=request.body, **signed)
        payment = payment_notices.parse_payment(request.body)
        if payment is None:
            return orders_pb2.TakePaymentNoticeResponse()
        method = payment_notices.payment_method(request.sender)
        rules.check_method(method, self.payment_methods | {PaymentMethod.PROVIDER})
        payment_notices.check_amount(payment, await self.repository.owned.load(payment.order_id))
        # The idempotency record leaves the notice's signature out because each delivery has a new one.
        await self._pay(
            orders_pb2.PayOrderRequest(
                request_id=f"{request.sender}:{request.request_id}",
                order_id=payment.order_id,
                method=orders_pb2.PaymentMethod.Value(method),
                sandbox_token=rules.SANDBOX_APPROVAL_TOKEN,
            )
        )
        return orders_pb2.TakePaymentNoticeResponse(acted=True)

    async def PayOrder(self, request: orders_pb2.PayOrderRequest, context: Any) -> orders_pb2.PayOrderResponse:
        rules.check_method(to_struct(request_fields(request), PaymentRequest).method, self.payment_methods)
        return await self._pay(request)

    async def _pay(self, request: orders_pb2.PayOrderRequest) -> orders_pb2.PayOrderResponse:
        payment, payment_id = to_struct(request_fields(request), PaymentRequest), ids.new("pay")

        async def body(uow: UnitOfWork) -> orders_pb2.PayOrderResponse:
            order = await self.repository.owned.apply_rule(
                uow, payment.order_id, rules.approve, payment_id=payment_id, request=payment, at=uow.at, real_at=clock.system_now()
            )
            return orders_pb2.PayOrderResponse(order=order)

        approved = await self.transactions.run(request, orders_pb2.PayOrderResponse, body)
        order = await self.checkout.finish(approved.order.id)
        if order.state is OrderState.CANCELLED:
            raise rules.cancelled_refusal(order)
        return orders_pb2.PayOrderResponse(order=await self.repository.owned.get(order.id))

    async def CancelOrder(self, request: orders_pb2.CancelOrderRequest, context: Any) -> orders_pb2.CancelOrderResponse:
        key = IdempotencyKey.from_request(request)
        order = await self.repository.owned.load(request.order_id, writing=True)
        await self.checkout.cancel(order, CancelReason.REQUESTED, key=key)
        return orders_pb2.CancelOrderResponse(order=await self.repository.owned.get(order.id))

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Any) -> orders_pb2.GetOrderResponse:
        return orders_pb2.GetOrderResponse(order=await self.repository.get(request.id))

    async def BatchGetOrders(self, request: orders_pb2.BatchGetOrdersRequest, context: Any) -> orders_pb2.BatchGetOrdersResponse:
        return orders_pb2.BatchGetOrdersResponse(orders=await self.repository.batch(request.ids))

    async def ListOrders(self, request: orders_pb2.ListOrdersRequest, context: Any) -> orders_pb2.ListOrdersResponse:
        criteria = {name: id for name in ("consumer_id", "store_id", "brand_id") if (id := getattr(request, name))}
        if not criteria:
            raise Invalid(Reason.INVALID_FIELD, "The list has no filter. Set a consumer, a store or a brand.", field="consumer_id")
        orders, page = await self.repository.list_page(criteria, request.page)
        return orders_pb2.ListOrdersResponse(orders=orders, page=page)

    async def BatchListOrders(self, request: orders_pb2.BatchListOrdersRequest, context: Any) -> orders_pb2.BatchListOrdersResponse:
        name, keys = batch_lists.selected_ids(request, "consumer_ids", "store_ids", "brand_ids")
        pages = await self.repository.list_first_pages(name, keys, request.first)
        return orders_pb2.BatchListOrdersResponse(lists=batch_lists.to_lists("key", "orders", pages))

    async def WatchOrder(
        self, request: orders_pb2.WatchOrderRequest, context: Any
    ) -> AsyncGenerator[orders_pb2.WatchOrderResponse, None]:  # fmt: skip
        async with aclosing(self.repository.watch(request.order_id, request.after)) as states:
            async for order, cursor in states:
                yield orders_pb2.WatchOrderResponse(order=order, cursor=cursor)

    async def GetDestination(self, request: orders_pb2.GetDestinationRequest, context: Any) -> orders_pb2.GetDestinationResponse:
        order = await self.repository.owned.load(request.order_id)
        if order.destination is None:
            raise NotFound(Reason.DESTINATION_MISSING, "This order is not delivered and has no destination.")
        return orders_pb2.GetDestinationResponse(destination=self._decrypt_destination(order.destination))

    async def BatchGetDestinations(
        self, request: orders_pb2.BatchGetDestinationsRequest, context: Any
    ) -> orders_pb2.BatchGetDestinationsResponse:  # fmt: skip
        encrypted = await self.repository.find_destinations(request.order_ids)
        destinations: list[Any] = []
        for id, destination in encrypted.items():
            try:
                destinations.append({"order_id": id, "destination": self._decrypt_destination(destination)})
            except ValueError as error:  # a destination whose key is gone must not fail the others
                logger().error("destination cannot be decrypted", order=id, error=type(error).__name__)
        return orders_pb2.BatchGetDestinationsResponse(destinations=destinations)

    def _decrypt_destination(self, encrypted: bytes) -> Any:
        """Returns a destination, shaped like its message."""
        return msgspec.json.decode(self.encryption.decrypt(encrypted))

    @transactional
    async def ImportOrders(self, request: orders_pb2.ImportOrdersRequest, uow: UnitOfWork) -> orders_pb2.ImportOrdersResponse:
        if not 0 < len(request.orders) <= import_rules.IMPORT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"An import must have 1 to {import_rules.IMPORT_MAX} orders.", field="orders")
        stores = await self.stocks.find_stores(order.store_id for order in request.orders)
        brands = await self.catalog.find_brand_ids(line.variant_id for order in request.orders for line in order.lines)
        refused: dict[int, Refusal] = {}
        orders: dict[str, Order] = {}
        for index, row in enumerate(request.orders):
            try:
                if row.order_id in orders:
                    raise Invalid(Reason.ORDER_REPEATED, "This import names the order twice. Remove one of the rows.")
                store = stores.get(row.store_id)
                order = import_rules.build_order(
                    _parse_row(row), batch_id=request.request_id, now=uow.at, seller_id=store.brand_id if store else None, brands=brands
                )
                orders[order.id] = order
            except Refusal as refusal:
                refused[index] = refusal
        imported = await self.repository.import_orders(uow, request.request_id, orders)
        rejects = build_rejects(refused, [order.order_id for order in request.orders])
        return orders_pb2.ImportOrdersResponse(imported=imported, known=len(orders) - imported, rejects=rejects)


def _parse_row(row: orders_pb2.ImportedOrder) -> ImportedOrder:
    """Returns the row of an import, its bounds not checked yet. `Invalid` if its time of payment is missing.

    It reads field by field because `fields` takes three times as long, and an import has many rows.
    """
    if not row.HasField("paid_at"):
        raise Invalid(Reason.INVALID_FIELD, "The time of payment is missing. Set it.", field="paid_at")
    return ImportedOrder(
        order_id=row.order_id,
        consumer_id=row.consumer_id,
        store_id=row.store_id,
        paid_at=row.paid_at.ToDatetime(UTC),
        touchpoint=_touchpoint(row.touchpoint),
        scenario=_scenario(row.scenario),
        lines=tuple(ImportedLine(line.variant_id, line.quantity, Price(line.paid.currency, line.paid.minor)) for line in row.lines),
    )


@lru_cache(maxsize=64)
def _touchpoint(value: int) -> Touchpoint:
    return _enum_value(Touchpoint, touch_pb2.Touchpoint.DESCRIPTOR, value)


@lru_cache(maxsize=64)
def _scenario(value: int) -> Scenario:
    return _enum_value(Scenario, touch_pb2.Scenario.DESCRIPTOR, value)


def _enum_value(enum: type[E], descriptor: Any, number: int) -> E:
    """Returns the member of an enum with this number. `Invalid` if there is none."""
    label = descriptor.values_by_number.get(number)
    if label is None:
        field = descriptor.name.lower()
        raise Invalid(Reason.INVALID_FIELD, f"{number} is not a known {field}. Choose another one.", field=field)
    return enum(label.name)


def accepted_payment_methods(settings: Settings) -> frozenset[PaymentMethod]:
    """Returns the payment methods that PayOrder accepts. A provider's payment arrives as a notice instead."""
    sandbox = settings.sandbox_payments == "on" or (settings.sandbox_payments == "auto" and settings.env == "development")
    return frozenset({PaymentMethod.SANDBOX} if sandbox else ())
