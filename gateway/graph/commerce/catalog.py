"""Schema of the catalog: products, their variants, and the offers that consumers see and buy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strawberry import ID

from gateway.graph.batch_loaders import brand_by_id, offer_by_id, product_by_id, variant_by_id, variants_of_product
from gateway.schema.connections import connection_type
from gateway.schema.inputs import input_type
from gateway.schema.nodes import node_field
from gateway.schema.references import reference
from gateway.schema.rpc_fields import connection_field, mutation_field
from gateway.schema.types import Node, object_type
from quanyu.commerce.v1 import catalog_pb2

if TYPE_CHECKING:
    from gateway.graph.common import Attribute, AttributeInput, Money, MoneyInput, Text, TextInput
    from gateway.graph.organization.chart import Brand


@object_type(catalog_pb2.Product, node="prd_", loader=product_by_id)
class Product(Node):
    id: ID
    name: Text | None
    category: str | None
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    variants: list[Variant] | None = reference(
        by="id", loader=variants_of_product, list_size=20, description="All variants of the product."
    )


@object_type(catalog_pb2.Variant, node="var_", loader=variant_by_id)
class Variant(Node):
    id: ID
    name: Text | None
    category: str | None
    attributes: list[Attribute]
    price: Money | None
    product: Product | None = reference(by="product_id", loader=product_by_id)
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    offer: Offer | None = reference(by="offer_id", loader=offer_by_id)


@object_type(catalog_pb2.OfferedVariant)
class OfferedVariant:
    attributes: list[Attribute]
    price: Money | None
    variant_id: ID
    variant: Variant | None = reference(by="variant_id", loader=variant_by_id)


@object_type(catalog_pb2.Offer, node="ofr_", loader=offer_by_id)
class Offer(Node):
    id: ID
    name: Text | None
    category: str | None
    goods: list[OfferedVariant]
    price_from: Money | None
    brand: Brand | None = reference(by="brand_id", loader=brand_by_id)
    product: Product | None = reference(by="product_id", loader=product_by_id)


@connection_type(catalog_pb2.SearchOffersResponse, catalog_pb2.OffersOfBrand, items="offers")
class OfferConnection:
    nodes: list[Offer]


@input_type(catalog_pb2.SearchOffersRequest)
class OfferSearch:
    text: str | None
    attributes: list[AttributeInput] | None
    brand_id: ID | None


@input_type(catalog_pb2.SearchOffersRequest)
class BrandOffers:
    text: str | None
    attributes: list[AttributeInput] | None


class Queries:
    product: Product | None = node_field(product_by_id)
    variant: Variant | None = node_field(variant_by_id)
    offer: Offer | None = node_field(offer_by_id)
    offers: OfferConnection | None = connection_field(catalog_pb2.SearchOffersRequest, arguments=OfferSearch)


@input_type(catalog_pb2.NewVariant)
class NewVariantInput:
    variant_id: ID | None
    attributes: list[AttributeInput] | None
    price: MoneyInput


@input_type(catalog_pb2.NewProduct)
class NewProductInput:
    product_id: ID | None
    name: TextInput
    category: str | None
    variants: list[NewVariantInput]


@input_type(catalog_pb2.CreateProductRequest)
class CreateProductInput:
    idempotency_key: str | None
    brand_id: ID
    product: NewProductInput


@object_type(catalog_pb2.CreateProductResponse)
class CreateProductPayload:
    product: Product
    variants: list[Variant]
    offer: Offer


@input_type(catalog_pb2.SetPriceRequest)
class SetPriceInput:
    idempotency_key: str
    variant_id: ID
    price: MoneyInput


@object_type(catalog_pb2.SetPriceResponse)
class SetPricePayload:
    variant: Variant


class Mutations:
    create_product: CreateProductPayload | None = mutation_field(CreateProductInput)
    set_price: SetPricePayload | None = mutation_field(SetPriceInput)
