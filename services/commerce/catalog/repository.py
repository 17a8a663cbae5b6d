"""The collections of products, variants and offers. Every caller reads them; a brand writes its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cachetools import LRUCache
from pymongo import ASCENDING, IndexModel, UpdateOne

from quanyu.commerce.v1 import catalog_pb2
from quanyu.common.v1.page_pb2 import PageRequest
from services.commerce.catalog import rules, search_tokens
from services.commerce.catalog.enums import Reason
from services.commerce.catalog.rules import ComposedProduct, NewProduct, Offer, Price, Product, Variant
from services.kit.enums import ScopeKind
from services.kit.errors import Denied, Refusal
from services.kit.mongo.client import Database, Document, MessageDocument, Session
from services.kit.mongo.codec import to_documents, to_struct
from services.kit.mongo.scoped_collection import Page, ScopedCollection
from services.kit.security.caller import current_caller
from services.kit.transactions.unit_of_work import UnitOfWork

VARIANTS_MATCHED_MAX = 500
"""A text search returns at most this many variants."""
VARIANTS_LISTED_MAX = 10_000
"""A list of the variants of several products has at most this many entries."""
BRANDS_CACHED_MAX = 500_000
"""The cache holds the brand of at most this many variants, about 150 MB. A variant never changes its brand."""


class CatalogRepository:
    """Reads and writes products, variants and offers."""

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
        self.brand_ids: LRUCache[str, str] = LRUCache(BRANDS_CACHED_MAX)

    @property
    def collections(self) -> tuple[ScopedCollection[Any], ...]:
        """The collections to prepare before the service starts."""
        return self.products, self.variants, self.offers

    # reading ---------------------------------------------------------------------------------------------------------

    async def search_offers(self, text: str, attributes: Mapping[str, str], brand_id: str, page: PageRequest) -> Page:
        """Returns a page of the offers with a variant that matches the text and the attributes. Without both, every offer matches."""
        query = _offer_filter(text, attributes)
        if brand_id:
            query["brand_id"] = brand_id
        return await self.offers.page(query, page, order=[])

    async def list_first_offers(self, text: str, attributes: Mapping[str, str], brand_ids: Iterable[str], first: int) -> dict[str, Page]:
        """Returns the first page of `search_offers` for each brand."""
        query = _offer_filter(text, attributes)
        return await self.offers.first_pages({id: query | {"brand_id": id} for id in brand_ids}, first, order=[])

    async def find_matching_variants(self, text: str, attributes: Mapping[str, str]) -> dict[str, Variant]:
        """Returns the variants that match the text and the attributes, by id, at most VARIANTS_MATCHED_MAX."""
        query = token_filter(search_tokens.tokenize_query(text, attributes))
        found = self.variants.collection.find(query, {"search": 0}).sort("_id", 1).limit(VARIANTS_MATCHED_MAX)
        return {document["_id"]: to_struct(document, Variant) for document in await found.to_list(VARIANTS_MATCHED_MAX)}

    async def find_variants(self, ids: Iterable[str], session: Session = None) -> dict[str, Variant]:
        """Returns the existing ones of these variants, by id."""
        found = self.variants.collection.find({"_id": {"$in": list(set(ids))}}, {"search": 0}, session=session)
        return {document["_id"]: to_struct(document, Variant) for document in await found.to_list(None)}

    async def find_brand_ids(self, ids: Iterable[str]) -> dict[str, str]:
        """Returns the brand of each existing variant of these, by variant id, from the cache where possible."""
        found: dict[str, str] = {}
        missing: list[str] = []
        for id in set(ids):
            if brand_id := self.brand_ids.get(id):
                found[id] = brand_id
            else:
                missing.append(id)
        if missing:
            async for document in self.variants.collection.find({"_id": {"$in": missing}}, {"brand_id": 1}):
                found[document["_id"]] = self.brand_ids[document["_id"]] = document["brand_id"]
        return found

    # writing ---------------------------------------------------------------------------------------------------------

    async def create(self, uow: UnitOfWork, composed: ComposedProduct) -> tuple[MessageDocument, list[MessageDocument], MessageDocument]:
        """Inserts a product, its variants and its offer, and returns them. `Conflict` if an id is in use."""
        product = await self.products.insert(uow, composed.product)
        variants = [await self.variants.insert(uow, variant) for variant in composed.variants]
        return product, variants, await self.offers.insert(uow, composed.offer)

    async def set_price(self, uow: UnitOfWork, variant_id: str, price: Price) -> MessageDocument:
        """Sets the price in the variant and in its offer, and returns the variant."""
        before = await self.variants.load(variant_id, session=uow.session, writing=True)
        offer = await self.offers.load(before.offer_id, session=uow.session, writing=True)
        offer_after, after = rules.set_price(offer, before, price)
        await self.offers.replace(uow, offer_after, before=offer)
        return await self.variants.replace(uow, after, before=before)

    async def import_products(self, uow: UnitOfWork, rows: Sequence[NewProduct]) -> list[Refusal | None]:
        """Inserts or replaces products. Returns for each row None, or the refusal that rejected it."""
        state = await self._load_import_state(uow, rows)
        refusals: list[Refusal | None] = []
        for row in rows:
            try:
                if not current_caller().can_reach(ScopeKind.BRAND, row.brand_id):
                    raise Denied(Reason.OUT_OF_SCOPE, "This product belongs to another brand. Import only products of your own brands.")
                state.apply(row)
                refusals.append(None)
            except Refusal as refusal:
                refusals.append(refusal)
        for scoped, values in ((self.products, state.products), (self.variants, state.variants), (self.offers, state.offers)):
            documents = to_documents(list(values.values()))
            # Upserts would cost the server four times as much as inserts.
            if inserts := [document for document in documents if document["_id"] not in state.existing_ids]:
                await scoped.collection.insert_many(inserts, ordered=False, session=uow.session)
            if updates := [_replacement(document) for document in documents if document["_id"] in state.existing_ids]:
                await scoped.collection.bulk_write(updates, ordered=False, session=uow.session)
        return refusals

    async def _load_import_state(self, uow: UnitOfWork, rows: Sequence[NewProduct]) -> "_ImportState":
        product_ids = [row.product_id for row in rows]
        variant_ids = [variant.variant_id for row in rows for variant in row.variants]
        products = self.products.collection.find({"_id": {"$in": product_ids}}, {"brand_id": 1}, session=uow.session)
        product_brands = {document["_id"]: document["brand_id"] for document in await products.to_list(None)}
        query = {"$or": [{"_id": {"$in": variant_ids}}, {"product_id": {"$in": product_ids}}]}
        variants = await self.variants.collection.find(query, session=uow.session).to_list(None)
        return _ImportState(product_brands, [to_struct(document, Variant) for document in variants])


class _ImportState:
    """The documents that exist before an import (`existing_ids`), and the values that it writes, by id."""

    def __init__(self, product_brands: dict[str, str], variants: Sequence[Variant]) -> None:
        self.product_brands = product_brands
        self.variant_products = {variant.id: variant.product_id for variant in variants}
        self.product_variants: dict[str, dict[str, Variant]] = defaultdict(dict)
        for variant in variants:
            self.product_variants[variant.product_id][variant.id] = variant
        # Each product has exactly one offer.
        self.existing_ids = frozenset([*product_brands, *map(rules.offer_id, product_brands), *self.variant_products])
        self.products: dict[str, Product] = {}
        self.variants: dict[str, Variant] = {}
        self.offers: dict[str, Offer] = {}

    def apply(self, row: NewProduct) -> None:
        """Applies one row on the result of the rows before it. A refused row changes nothing."""
        rules.check_ids_available(row, self.product_brands, self.variant_products)
        composed = rules.compose(row, self.product_variants[row.product_id].values())
        self.product_brands[row.product_id] = row.brand_id
        self.variant_products |= {variant.id: row.product_id for variant in composed.variants}
        self.product_variants[row.product_id] = {variant.id: variant for variant in composed.variants}
        self.products[composed.product.id] = composed.product
        self.variants |= {variant.id: variant for variant in composed.variants}
        self.offers[composed.offer.id] = composed.offer


def _replacement(document: Document) -> UpdateOne:
    fields = {name: value for name, value in document.items() if name not in ("_id", "version")}
    return UpdateOne({"_id": document["_id"]}, {"$set": fields, "$inc": {"version": 1}})


def _offer_filter(text: str, attributes: Mapping[str, str]) -> Document:
    """Returns the filter of the offers with a variant that matches. Without text and attributes, every offer matches."""
    return {"goods": {"$elemMatch": token_filter(search_tokens.tokenize_query(text, attributes))}} if text.strip() or attributes else {}


def token_filter(alternatives: Sequence[Sequence[str]]) -> Document:
    """Returns the filter of the documents with at least one token of each sequence. Without a sequence, no document matches."""
    if not alternatives:
        return {"search": {"$in": []}}
    return {"$and": [{"search": {"$in": list(tokens)}} for tokens in alternatives]}
