"""The gRPC servicer of the catalog."""

from typing import Any

from quanyu.commerce.v1 import catalog_pb2, catalog_pb2_grpc
from services.commerce.catalog import rules
from services.commerce.catalog.enums import Reason
from services.commerce.catalog.repository import VARIANTS_LISTED_MAX, CatalogRepository
from services.commerce.catalog.rules import NewProduct
from services.commerce.rejects import build_rejects
from services.kit import ids
from services.kit.errors import Invalid, Refusal, field_prefix
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional

TEXT_LENGTH_MAX = 200
"""The text of an offer search has at most this many characters."""
ATTRIBUTES_MAX = 16
"""An offer search names at most this many attributes."""
PRODUCTS_LISTED_MAX = 100
"""BatchListVariants takes at most this many products."""


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self, runtime: Runtime, catalog: CatalogRepository) -> None:
        self.transactions, self.catalog = runtime.transactions, catalog

    async def GetProduct(self, request: catalog_pb2.GetProductRequest, context: Any) -> catalog_pb2.GetProductResponse:
        return catalog_pb2.GetProductResponse(product=await self.catalog.products.get(request.id))

    async def BatchGetProducts(self, request: catalog_pb2.BatchGetProductsRequest, context: Any) -> catalog_pb2.BatchGetProductsResponse:
        return catalog_pb2.BatchGetProductsResponse(products=await self.catalog.products.batch(request.ids))

    async def BatchGetVariants(self, request: catalog_pb2.BatchGetVariantsRequest, context: Any) -> catalog_pb2.BatchGetVariantsResponse:
        return catalog_pb2.BatchGetVariantsResponse(variants=await self.catalog.variants.batch(request.ids))

    async def BatchListVariants(self, request: catalog_pb2.BatchListVariantsRequest, context: Any) -> catalog_pb2.BatchListVariantsResponse:
        if len(request.product_ids) > PRODUCTS_LISTED_MAX:
            raise Invalid("BATCH_TOO_LARGE", f"The request names more than {PRODUCTS_LISTED_MAX} products. Split it.", field="product_ids")
        query = {"product_id": {"$in": list(request.product_ids)}}
        return catalog_pb2.BatchListVariantsResponse(variants=await self.catalog.variants.find(query, limit=VARIANTS_LISTED_MAX))

    async def GetOffer(self, request: catalog_pb2.GetOfferRequest, context: Any) -> catalog_pb2.GetOfferResponse:
        return catalog_pb2.GetOfferResponse(offer=await self.catalog.offers.get(request.id))

    async def BatchGetOffers(self, request: catalog_pb2.BatchGetOffersRequest, context: Any) -> catalog_pb2.BatchGetOffersResponse:
        return catalog_pb2.BatchGetOffersResponse(offers=await self.catalog.offers.batch(request.ids))

    async def SearchOffers(self, request: catalog_pb2.SearchOffersRequest, context: Any) -> catalog_pb2.SearchOffersResponse:
        offers, page = await self.catalog.search_offers(*_search_terms(request), request.brand_id, request.page)
        return catalog_pb2.SearchOffersResponse(offers=offers, page=page)

    async def BatchListOffers(self, request: catalog_pb2.BatchListOffersRequest, context: Any) -> catalog_pb2.BatchListOffersResponse:
        name, brand_ids = batch_lists.selected_ids(request, "brand_ids")
        pages = await self.catalog.list_first_offers(*_search_terms(request), brand_ids, request.first)
        return catalog_pb2.BatchListOffersResponse(brands=batch_lists.to_lists(name, "offers", pages))

    @transactional
    async def CreateProduct(self, request: catalog_pb2.CreateProductRequest, uow: UnitOfWork) -> catalog_pb2.CreateProductResponse:
        to_struct({"brand_id": request.brand_id}, rules.Owner)
        new = request_fields(request.product)
        if new.setdefault("brand_id", request.brand_id) != request.brand_id:
            message = "`brandId` and `product.brandId` differ. Name one brand, or leave `product.brandId` out."
            raise Invalid(Reason.INVALID_FIELD, message, field="product.brand_id")
        with field_prefix("product"):
            composed = rules.compose(to_struct(rules.assign_ids(new, ids.new), NewProduct))
        product, variants, offer = await self.catalog.create(uow, composed)
        return catalog_pb2.CreateProductResponse(product=product, variants=variants, offer=offer)

    @transactional
    async def SetPrice(self, request: catalog_pb2.SetPriceRequest, uow: UnitOfWork) -> catalog_pb2.SetPriceResponse:
        with field_prefix("price"):
            price = to_struct(request_fields(request.price), rules.Price)
        return catalog_pb2.SetPriceResponse(variant=await self.catalog.set_price(uow, request.variant_id, price))

    @transactional
    async def ImportProducts(self, request: catalog_pb2.ImportProductsRequest, uow: UnitOfWork) -> catalog_pb2.ImportProductsResponse:
        if not 0 < len(request.products) <= rules.IMPORT_MAX:
            raise Invalid(Reason.INVALID_FIELD, f"An import must have 1 to {rules.IMPORT_MAX} products.", field="products")
        refused: dict[int, Refusal] = {}
        rows: dict[int, NewProduct] = {}
        for index, product in enumerate(request.products):
            try:
                rows[index] = to_struct(request_fields(product), NewProduct)
            except Refusal as refusal:
                refused[index] = refusal
        refusals = await self.catalog.import_products(uow, list(rows.values()))
        refused |= {index: refusal for index, refusal in zip(rows, refusals, strict=True) if refusal}
        rejects = build_rejects(refused, [product.product_id for product in request.products])
        return catalog_pb2.ImportProductsResponse(imported=len(request.products) - len(rejects), rejects=rejects)


def _search_terms(request: catalog_pb2.SearchOffersRequest | catalog_pb2.BatchListOffersRequest) -> tuple[str, dict[str, str]]:
    """Returns the text and the attributes of an offer search. `Invalid` if one of them is too long."""
    message = f"A search has at most {TEXT_LENGTH_MAX} characters of text and {ATTRIBUTES_MAX} attributes. Shorten it."
    if len(request.text) > TEXT_LENGTH_MAX or len(request.attributes) > ATTRIBUTES_MAX:
        raise Invalid(Reason.INVALID_FIELD, message, field="text")
    return request.text, dict(request.attributes)
