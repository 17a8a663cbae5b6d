"""The collections of products, variants and offers. Everybody reads them; a brand writes its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cachetools import LRUCache
from pymongo import ASCENDING, IndexModel, UpdateOne

from quanyu.commerce.v1 import catalog_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from services.commerce.catalog import rules, search_tokens
from services.commerce.catalog.enums import Reason
from services.commerce.catalog.rules import Composed, NewProduct, Offer, Price, Product, Variant
from services.kit.enums import ScopeKind
from services.kit.errors import Denied, Refusal
from services.kit.mongo.client import Database, Document, Session, Shaped
from services.kit.mongo.codec import as_documents, as_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.security.authorization import caller
from services.kit.transactions.unit_of_work import UnitOfWork

VARIANTS_MATCHED_MAX = 500
LISTED_MAX = 10_000
BRANDS_CACHED_MAX = 500_000
"""The cache of the brand of each variant, which never changes. A full one takes some 150 MB."""


class CatalogRepository:
    """Products, variants and offers."""

    def __init__(self, database: Database) -> None:
        own = {ScopeKind.BRAND: "brand_id"}
        self.products = ScopedCollection(
            database, "products", noun="PRODUCT", struct=Product, message=catalog_pb2.Product, scopes=own, public=True,
            indexes=[IndexModel([("brand_id", ASCENDING), ("_id", ASCENDING)])],
        )  # fmt: skip
        self.variants = ScopedCollection(
            database, "variants", noun="VARIANT", struct=Variant, message=catalog_pb2.Variant, scopes=own, public=True,
            indexes=[IndexModel([("search", ASCENDING), ("_id", ASCENDING)]), IndexModel([("product_id", ASCENDING)])],
        )  # fmt: skip
        self.offers = ScopedCollection(
            database, "offers", noun="OFFER", struct=Offer, message=catalog_pb2.Offer, scopes=own, public=True,
            indexes=[
                IndexModel([("goods.search", ASCENDING), ("_id", ASCENDING)]),
                IndexModel([("brand_id", ASCENDING), ("_id", ASCENDING)]),
            ],
        )  # fmt: skip
        self.brands: LRUCache[str, str] = LRUCache(BRANDS_CACHED_MAX)

    @property
    def tables(self) -> tuple[ScopedCollection[Any], ...]:
        """What is prepared before the start."""
        return self.products, self.variants, self.offers

    # reading ---------------------------------------------------------------------------------------------------------

    async def search_offers(self, text: str, attributes: Mapping[str, str], brand_id: str, page: PageRequest) -> Page:
        """Offers with a variant that has every word and attribute."""
        query = _with_goods(text, attributes)
        if brand_id:
            query["brand_id"] = brand_id
        return await self.offers.page(query, page, order=[])

    async def first_offers(self, text: str, attributes: Mapping[str, str], brand_ids: Iterable[str], first: int) -> dict[str, Page]:
        """The first page of each of several brands, as `search_offers` has it."""
        query = _with_goods(text, attributes)
        return await self.offers.first_pages({id: query | {"brand_id": id} for id in brand_ids}, first, order=[])

    async def matching(self, text: str, attributes: Mapping[str, str]) -> dict[str, Variant]:
        """The variants that have every word and attribute, at most VARIANTS_MATCHED_MAX, by id."""
        query = having(search_tokens.of_query(text, attributes))
        rows = self.variants.collection.find(query, {"search": 0}).sort("_id", 1).limit(VARIANTS_MATCHED_MAX)
        return {row["_id"]: as_struct(row, Variant) for row in await rows.to_list(VARIANTS_MATCHED_MAX)}

    async def known(self, ids: Iterable[str], session: Session = None) -> dict[str, Variant]:
        """Those of these variants that exist, by id."""
        rows = self.variants.collection.find({"_id": {"$in": list(set(ids))}}, {"search": 0}, session=session)
        return {row["_id"]: as_struct(row, Variant) for row in await rows.to_list(None)}

    async def brands_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The brand of each of these variants that exists; what was looked up once is remembered."""
        found: dict[str, str] = {}
        missing: list[str] = []
        for id in set(ids):
            if brand_id := self.brands.get(id):
                found[id] = brand_id
            else:
                missing.append(id)
        if missing:
            async for row in self.variants.collection.find({"_id": {"$in": missing}}, {"brand_id": 1}):
                found[row["_id"]] = self.brands[row["_id"]] = row["brand_id"]
        return found

    # writing ---------------------------------------------------------------------------------------------------------

    async def create(self, uow: UnitOfWork, made: Composed) -> tuple[Shaped, list[Shaped], Shaped]:
        """A product with its variants and offer; `Conflict` when an id is in use."""
        product = await self.products.insert(uow, made.product)
        variants = [await self.variants.insert(uow, variant) for variant in made.variants]
        return product, variants, await self.offers.insert(uow, made.offer)

    async def set_price(self, uow: UnitOfWork, variant_id: str, price: Price) -> Shaped:
        """The variant at its new price; its offer has it too."""
        before = await self.variants.load(variant_id, session=uow.session, writing=True)
        offer = await self.offers.load(before.offer_id, session=uow.session, writing=True)
        offer_after, after = rules.set_price(offer, before, price)
        await self.offers.replace(uow, offer_after, before=offer)
        return await self.variants.replace(uow, after, before=before)

    async def bring(self, uow: UnitOfWork, rows: Sequence[NewProduct]) -> list[Refusal | None]:
        """Adds or replaces products; for each row None, or why it was left out."""
        standing = await self._standing(uow, rows)
        verdicts: list[Refusal | None] = []
        for row in rows:
            try:
                if not caller().reaches(ScopeKind.BRAND, row.brand_id):
                    raise Denied(Reason.OUT_OF_SCOPE, "this is another brand's product")
                standing.take(row)
                verdicts.append(None)
            except Refusal as refusal:
                verdicts.append(refusal)
        for table, taken in ((self.products, standing.products), (self.variants, standing.variants), (self.offers, standing.offers)):
            documents = as_documents(list(taken.values()))
            # Not upserts: they cost the server four times what inserts do.
            if fresh := [document for document in documents if document["_id"] not in standing.before]:
                await table.collection.insert_many(fresh, ordered=False, session=uow.session)
            if changed := [_replacing(document) for document in documents if document["_id"] in standing.before]:
                await table.collection.bulk_write(changed, ordered=False, session=uow.session)
        return verdicts

    async def _standing(self, uow: UnitOfWork, rows: Sequence[NewProduct]) -> "_Standing":
        products = [row.product_id for row in rows]
        named = [variant.variant_id for row in rows for variant in row.variants]
        found = self.products.collection.find({"_id": {"$in": products}}, {"brand_id": 1}, session=uow.session)
        brands = {row["_id"]: row["brand_id"] for row in await found.to_list(None)}
        known = self.variants.collection.find({"$or": [{"_id": {"$in": named}}, {"product_id": {"$in": products}}]}, session=uow.session)
        return _Standing(brands, [as_struct(row, Variant) for row in await known.to_list(None)])


class _Standing:
    """What stands before an import (`before` has the ids), and what is to be written by it, by id."""

    def __init__(self, product_brands: dict[str, str], variants: Sequence[Variant]) -> None:
        self.product_brands = product_brands
        self.variant_products = {variant.id: variant.product_id for variant in variants}
        self.of_product: dict[str, dict[str, Variant]] = defaultdict(dict)
        for variant in variants:
            self.of_product[variant.product_id][variant.id] = variant
        # A product stands with its offer.
        self.before = frozenset([*product_brands, *map(rules.offer_id, product_brands), *self.variant_products])
        self.products: dict[str, Product] = {}
        self.variants: dict[str, Variant] = {}
        self.offers: dict[str, Offer] = {}

    def take(self, row: NewProduct) -> None:
        """Composes a row on what stands after the rows before it; raises before anything is taken over."""
        rules.check_free(row, self.product_brands, self.variant_products)
        made = rules.compose(row, self.of_product[row.product_id].values())
        self.product_brands[row.product_id] = row.brand_id
        self.variant_products |= {variant.id: row.product_id for variant in made.variants}
        self.of_product[row.product_id] = {variant.id: variant for variant in made.variants}
        self.products[made.product.id] = made.product
        self.variants |= {variant.id: variant for variant in made.variants}
        self.offers[made.offer.id] = made.offer


def _replacing(document: Document) -> UpdateOne:
    fields = {name: value for name, value in document.items() if name not in ("_id", "version")}
    return UpdateOne({"_id": document["_id"]}, {"$set": fields, "$inc": {"version": 1}})


def _with_goods(text: str, attributes: Mapping[str, str]) -> Document:
    """The filter for offers with a variant that has all this; without any for every offer."""
    return {"goods": {"$elemMatch": having(search_tokens.of_query(text, attributes))}} if text.strip() or attributes else {}


def having(wanted: Sequence[Sequence[str]]) -> Document:
    """The filter for what has one of each of these tokens; none at all find nothing."""
    if not wanted:
        return {"search": {"$in": []}}
    return {"$and": [{"search": {"$in": list(tokens)}} for tokens in wanted]}
