"""The catalog: products, their variants, and the offers that consumers see and buy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batches import brand_by_id, offer_by_id, product_by_id, variant_by_id, variants_of_product
from gateway.schema.connections import connection
from gateway.schema.inputs import form
from gateway.schema.nodes import by_id
from gateway.schema.references import edge
from gateway.schema.rpc_fields import mutation, page
from gateway.schema.types import Node, view
from quanyu.commerce.v1 import catalog_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Attribute, AttributeInput, Money, MoneyInput, Text, TextInput
    from gateway.graph.organization.chart import Brand


@view(catalog_pb2.Product, node="prd_", through=product_by_id)
class Product(Node):
    id: ID
    name: Text | None
    category: str | None
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    variants: list[Variant] | None = edge(by="id", through=variants_of_product, list_size=20, description="All its variants.")


@view(catalog_pb2.Variant, node="var_", through=variant_by_id)
class Variant(Node):
    id: ID
    name: Text | None
    category: str | None
    attributes: list[Attribute]
    price: Money | None
    product: Product | None = edge(by="product_id", through=product_by_id)
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    offer: Offer | None = edge(by="offer_id", through=offer_by_id)


@view(catalog_pb2.OfferedVariant)
class OfferedVariant:
    attributes: list[Attribute]
    price: Money | None
    variant_id: ID
    variant: Variant | None = edge(by="variant_id", through=variant_by_id)


@view(catalog_pb2.Offer, node="ofr_", through=offer_by_id)
class Offer(Node):
    id: ID
    name: Text | None
    category: str | None
    goods: list[OfferedVariant]
    price_from: Money | None
    brand: Brand | None = edge(by="brand_id", through=brand_by_id)
    product: Product | None = edge(by="product_id", through=product_by_id)


@connection(catalog_pb2.SearchOffersResponse, catalog_pb2.OffersOfBrand, items="offers")
class OfferConnection:
    nodes: list[Offer]


@form(catalog_pb2.SearchOffersRequest)
class OfferSearch:
    text: str | None
    attributes: list[AttributeInput] | None
    brand_id: ID | None


@form(catalog_pb2.SearchOffersRequest)
class BrandOffers:
    text: str | None
    attributes: list[AttributeInput] | None


class Queries:
    product: Product | None = by_id(product_by_id)
    variant: Variant | None = by_id(variant_by_id)
    offer: Offer | None = by_id(offer_by_id)
    offers: OfferConnection | None = page(catalog_pb2.SearchOffersRequest, arguments=OfferSearch)


@form(catalog_pb2.NewVariant)
class NewVariantInput:
    variant_id: ID | None
    attributes: list[AttributeInput] | None
    price: MoneyInput


@form(catalog_pb2.NewProduct)
class NewProductInput:
    product_id: ID | None
    name: TextInput
    category: str | None
    variants: list[NewVariantInput]


@form(catalog_pb2.CreateProductRequest)
class CreateProductInput:
    idempotency_key: str | None
    brand_id: ID
    product: NewProductInput


@view(catalog_pb2.CreateProductResponse)
class CreateProductPayload:
    product: Product
    variants: list[Variant]
    offer: Offer


@form(catalog_pb2.SetPriceRequest)
class SetPriceInput:
    idempotency_key: str
    variant_id: ID
    price: MoneyInput


@view(catalog_pb2.SetPriceResponse)
class SetPricePayload:
    variant: Variant


class Mutations:
    create_product: CreateProductPayload | None = mutation(CreateProductInput)
    set_price: SetPricePayload | None = mutation(SetPriceInput)
