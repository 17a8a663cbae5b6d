"""Rules of the catalog: composes a product, its variants and its offer, and keeps their prices equal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.commerce.catalog import search_tokens
from services.commerce.catalog.enums import Reason
from services.kit import ids
from services.kit.errors import Conflict, Invalid
from services.kit.values.money import MINOR_MAX, Currency
from services.kit.values.validation import VISIBLE_LINE_PATTERN

VARIANTS_MAX = 100
"""A product has at most this many variants."""
IMPORT_MAX = 500
"""An import has at most this many products."""

ProductId = Annotated[str, Meta(pattern=ids.pattern("prd", length_max=60))]
VariantId = Annotated[str, Meta(pattern=ids.pattern("var", length_max=60))]
BrandId = Annotated[str, Meta(pattern=ids.pattern("(brd|rtl)"))]
DisplayText = Annotated[str, Meta(max_length=200, pattern=VISIBLE_LINE_PATTERN)]
Category = Annotated[str, Meta(max_length=64)]
AttributeName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
Attributes = Annotated[dict[AttributeName, Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=16)]


class Text(Struct, frozen=True):
    """A text in Chinese and English."""

    zh: DisplayText = ""
    en: DisplayText = ""


class Price(Struct, frozen=True):
    """The price of one piece: money that is not negative."""

    currency: Currency
    minor: Annotated[int, Meta(ge=0, le=MINOR_MAX)] = 0


class Product(Struct, frozen=True):
    """A product that a brand makes or sells."""

    id: ProductId
    brand_id: BrandId
    name: Text
    category: Category = ""
    version: int = 1


class Variant(Struct, frozen=True):
    """A product in one size and colour. `search` are its search tokens."""

    id: VariantId
    product_id: ProductId
    brand_id: BrandId
    offer_id: str
    name: Text
    price: Price
    category: Category = ""
    attributes: Attributes = {}
    search: list[str] = []
    version: int = 1


class OfferedVariant(Struct, frozen=True):
    """A variant as its offer sells it."""

    variant_id: VariantId
    price: Price
    attributes: Attributes = {}
    search: list[str] = []


class Offer(Struct, frozen=True):
    """The offer that a consumer sees and buys: a product's variants as goods."""

    id: str
    brand_id: BrandId
    product_id: ProductId
    name: Text
    price_from: Price
    category: Category = ""
    goods: Annotated[tuple[OfferedVariant, ...], Meta(min_length=1, max_length=VARIANTS_MAX)] = ()
    version: int = 1


class Owner(Struct, frozen=True):
    """The brand that owns a product to be created."""

    brand_id: BrandId


class NewVariant(Struct, frozen=True):
    """A variant to be created."""

    variant_id: VariantId
    price: Price
    attributes: Attributes = {}


class NewProduct(Struct, frozen=True):
    """A product to be created, with its ids."""

    product_id: ProductId
    brand_id: BrandId
    variants: Annotated[tuple[NewVariant, ...], Meta(min_length=1, max_length=VARIANTS_MAX)]
    name: Text = Text()
    category: Category = ""


class ComposedProduct(Struct, frozen=True):
    """A product with its variants and its offer."""

    product: Product
    variants: tuple[Variant, ...]
    offer: Offer


def assign_ids(new: dict[str, object], new_id: Callable[[str], str]) -> dict[str, object]:
    """Returns the fields of a NewProduct message with a new id where one is missing."""
    variants = new.get("variants") or []
    assert isinstance(variants, list)
    return new | {
        "product_id": new.get("product_id") or new_id("prd"),
        "variants": [variant | {"variant_id": variant.get("variant_id") or new_id("var")} for variant in variants],
    }


def offer_id(product_id: str) -> str:
    """Returns the id of the offer that sells a product."""
    return f"ofr_{product_id.removeprefix('prd_')}"


def compose(new: NewProduct, existing: Iterable[Variant] = ()) -> ComposedProduct:
    """Composes a product with its variants and its offer. Variants that exist already stay unless a new one replaces them.

    `Invalid` if the name is missing, variants repeat or are too many, or currencies differ.
    """
    if not (new.name.zh or new.name.en):
        raise Invalid(Reason.NAME_MISSING, "The product has no name. Set `name.zh` or `name.en`.", field="name")
    offer = offer_id(new.product_id)
    replaced = [_build_variant(new, variant, offer) for variant in new.variants]
    replaced_ids = {variant.id for variant in replaced}
    kept = [
        replace(old, name=new.name, category=new.category, search=_search_tokens(new, old.attributes))
        for old in existing
        if old.id not in replaced_ids
    ]
    variants = tuple(replaced + kept)
    _check_variants_distinct(variants)
    product = Product(new.product_id, new.brand_id, new.name, new.category)
    return ComposedProduct(product, variants, _build_offer(product, variants, offer))


def set_price(offer: Offer, variant: Variant, price: Price) -> tuple[Offer, Variant]:
    """Returns the offer and its variant with the new price. `Invalid` if its currency differs from the offer's."""
    goods = tuple(replace(item, price=price) if item.variant_id == variant.id else item for item in offer.goods)
    _check_currency([item.price for item in goods], "price")
    return replace(offer, goods=goods, price_from=_lowest_price(goods)), replace(variant, price=price)


def check_ids_available(new: NewProduct, product_brands: Mapping[str, str], variant_products: Mapping[str, str]) -> None:
    """Raises `Conflict` if an id belongs to another brand's product or another product's variant.

    `product_brands` and `variant_products` have the owner of each existing id.
    """
    if product_brands.get(new.product_id, new.brand_id) != new.brand_id:
        raise Conflict(Reason.PRODUCT_EXISTS, "This `productId` belongs to another brand. Choose another id.", product_id=new.product_id)
    for variant in new.variants:
        if variant_products.get(variant.variant_id, new.product_id) != new.product_id:
            raise Conflict(
                Reason.VARIANT_EXISTS, "This `variantId` belongs to another product. Choose another id.", variant_id=variant.variant_id
            )


def _build_variant(new: NewProduct, variant: NewVariant, offer_id: str) -> Variant:
    return Variant(
        id=variant.variant_id,
        product_id=new.product_id,
        brand_id=new.brand_id,
        offer_id=offer_id,
        name=new.name,
        price=variant.price,
        category=new.category,
        attributes=variant.attributes,
        search=_search_tokens(new, variant.attributes),
    )


def _search_tokens(new: NewProduct, attributes: Mapping[str, str]) -> list[str]:
    return search_tokens.tokenize_variant((new.name.zh, new.name.en, new.category), attributes)


def _build_offer(product: Product, variants: Sequence[Variant], offer_id: str) -> Offer:
    goods = tuple(OfferedVariant(variant.id, variant.price, variant.attributes, variant.search) for variant in variants)
    _check_currency([item.price for item in goods], "variants")
    return Offer(offer_id, product.brand_id, product.id, product.name, _lowest_price(goods), product.category, goods)


def _lowest_price(goods: Sequence[OfferedVariant]) -> Price:
    return min((item.price for item in goods), key=lambda price: price.minor)


def _check_variants_distinct(variants: Sequence[Variant]) -> None:
    if len(variants) > VARIANTS_MAX:
        raise Invalid(
            Reason.INVALID_FIELD, f"The product has more than {VARIANTS_MAX} variants. Split it into several products.", field="variants"
        )
    variant_ids = {variant.id for variant in variants}
    attribute_sets = {tuple(sorted(variant.attributes.items())) for variant in variants}
    if len(variant_ids) < len(variants) or len(attribute_sets) < len(variants):
        message = "Two variants have the same id or the same attributes. Make them differ."
        raise Invalid(Reason.VARIANT_REPEATED, message, field="variants")


def _check_currency(prices: Sequence[Price], field: str) -> None:
    if len({price.currency for price in prices}) > 1:
        raise Invalid(Reason.CURRENCY_MIXED, "The variants of one offer have prices in several currencies. Use one currency.", field=field)
