"""What a product, its variants and its offer are, and how they come about."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.commerce.catalog import search_tokens
from services.commerce.catalog.enums import Reason
from services.kit import ids
from services.kit.errors import Conflict, Invalid
from services.kit.values.money import MINOR_MAX, Currency
from services.kit.values.validation import WRITTEN

VARIANTS_MAX = 100
IMPORT_MAX = 500

ProductId = Annotated[str, Meta(pattern=ids.shape("prd", length_max=60))]
VariantId = Annotated[str, Meta(pattern=ids.shape("var", length_max=60))]
BrandId = Annotated[str, Meta(pattern=ids.shape("(brd|rtl)"))]
Words = Annotated[str, Meta(max_length=200, pattern=WRITTEN)]
Category = Annotated[str, Meta(max_length=64)]
AttributeName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
Attributes = Annotated[dict[AttributeName, Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=16)]


class Text(Struct, frozen=True):
    """A text in Chinese and English."""

    zh: Words = ""
    en: Words = ""


class Price(Struct, frozen=True):
    """What one costs: money that is not negative."""

    currency: Currency
    minor: Annotated[int, Meta(ge=0, le=MINOR_MAX)] = 0


class Product(Struct, frozen=True):
    """Something a brand makes or sells."""

    id: ProductId
    brand_id: BrandId
    name: Text
    category: Category = ""
    version: int = 1


class Variant(Struct, frozen=True):
    """A product in one size, colour and so on. `search` are the tokens it is found by."""

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
    """What a consumer sees and buys."""

    id: str
    brand_id: BrandId
    product_id: ProductId
    name: Text
    price_from: Price
    category: Category = ""
    goods: Annotated[tuple[OfferedVariant, ...], Meta(min_length=1, max_length=VARIANTS_MAX)] = ()
    version: int = 1


class Owner(Struct, frozen=True):
    """Whose product is to be created."""

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


class Composed(Struct, frozen=True):
    """A product with everything that stands with it."""

    product: Product
    variants: tuple[Variant, ...]
    offer: Offer


def name_ids(given: dict[str, object], make: Callable[[str], str]) -> dict[str, object]:
    """The fields of a NewProduct message with an id wherever none was given."""
    variants = given.get("variants") or []
    assert isinstance(variants, list)
    return given | {
        "product_id": given.get("product_id") or make("prd"),
        "variants": [variant | {"variant_id": variant.get("variant_id") or make("var")} for variant in variants],
    }


def offer_id(product_id: str) -> str:
    """The offer a product is sold by."""
    return f"ofr_{product_id.removeprefix('prd_')}"


def compose(new: NewProduct, standing: Iterable[Variant] = ()) -> Composed:
    """A product with its variants and offer. `standing` are variants it has already: they stay unless the new ones replace them."""
    if not (new.name.zh or new.name.en):
        raise Invalid(Reason.NAME_MISSING, "give the product a name in Chinese or English", field="name")
    offer = offer_id(new.product_id)
    made = [_variant(new, variant, offer) for variant in new.variants]
    named = {variant.id for variant in made}
    kept = [
        replace(old, name=new.name, category=new.category, search=_search(new, old.attributes)) for old in standing if old.id not in named
    ]
    variants = tuple(made + kept)
    _check_apart(variants)
    product = Product(new.product_id, new.brand_id, new.name, new.category)
    return Composed(product, variants, _offer(product, variants, offer))


def set_price(offer: Offer, variant: Variant, price: Price) -> tuple[Offer, Variant]:
    """The offer and its variant at another price."""
    goods = tuple(replace(item, price=price) if item.variant_id == variant.id else item for item in offer.goods)
    _check_currency([item.price for item in goods], "price")
    return replace(offer, goods=goods, price_from=_lowest(goods)), replace(variant, price=price)


def check_free(new: NewProduct, product_brands: Mapping[str, str], variant_products: Mapping[str, str]) -> None:
    """Refuses when an id of an import's row stands for something else: `product_brands` and `variant_products` name what stands."""
    if product_brands.get(new.product_id, new.brand_id) != new.brand_id:
        raise Conflict(Reason.PRODUCT_EXISTS, "this product id belongs to another brand; take another one", product_id=new.product_id)
    for variant in new.variants:
        if variant_products.get(variant.variant_id, new.product_id) != new.product_id:
            raise Conflict(Reason.VARIANT_EXISTS, "this variant id belongs to another product", variant_id=variant.variant_id)


def _variant(new: NewProduct, variant: NewVariant, offer_id: str) -> Variant:
    return Variant(
        id=variant.variant_id,
        product_id=new.product_id,
        brand_id=new.brand_id,
        offer_id=offer_id,
        name=new.name,
        price=variant.price,
        category=new.category,
        attributes=variant.attributes,
        search=_search(new, variant.attributes),
    )


def _search(new: NewProduct, attributes: Mapping[str, str]) -> list[str]:
    return search_tokens.of_variant((new.name.zh, new.name.en, new.category), attributes)


def _offer(product: Product, variants: Sequence[Variant], offer_id: str) -> Offer:
    goods = tuple(OfferedVariant(variant.id, variant.price, variant.attributes, variant.search) for variant in variants)
    _check_currency([item.price for item in goods], "variants")
    return Offer(offer_id, product.brand_id, product.id, product.name, _lowest(goods), product.category, goods)


def _lowest(goods: Sequence[OfferedVariant]) -> Price:
    return min((item.price for item in goods), key=lambda price: price.minor)


def _check_apart(variants: Sequence[Variant]) -> None:
    if len(variants) > VARIANTS_MAX:
        raise Invalid(Reason.INVALID_FIELD, f"a product has at most {VARIANTS_MAX} variants", field="variants")
    seen = {variant.id for variant in variants}
    looks = {tuple(sorted(variant.attributes.items())) for variant in variants}
    if len(seen) < len(variants) or len(looks) < len(variants):
        raise Invalid(Reason.VARIANT_REPEATED, "two variants have the same id or the same attributes", field="variants")


def _check_currency(prices: Sequence[Price], field: str) -> None:
    if len({price.currency for price in prices}) > 1:
        raise Invalid(Reason.CURRENCY_MIXED, "price all variants of one offer in one currency", field=field)
