"""The catalog by gRPC: every caller reads and searches it, a brand writes its own products, an import may be repeated."""

import pytest

from quanyu.commerce.v1 import catalog_pb2
from quanyu.common.v1.money_pb2 import Money
from quanyu.common.v1.page_pb2 import PageRequest
from services.commerce.catalog import search_tokens
from services.commerce.catalog.repository import token_filter
from services.kit.errors import Conflict, Denied, Invalid, NotFound
from tests.services.commerce.conftest import Shop, brand_grant, consumer_grant, new_key, plan_stages
from tests.services.conftest import ServiceHarness
from tests.services.lists import assert_batch_equals_lists, count_documents_read, fetch_first_pages


def new_product(
    id: str, brand_id: str = "brd_a", en: str = "White shirt", zh: str = "白衬衫", sizes: tuple[str, ...] = ("40",)
) -> catalog_pb2.NewProduct:
    variants = [
        catalog_pb2.NewVariant(variant_id=f"var_{id}_{size}", attributes={"size": size}, price=Money(minor=100, currency="CNY"))
        for size in sizes
    ]
    return catalog_pb2.NewProduct(product_id=f"prd_{id}", brand_id=brand_id, name=catalog_pb2.Text(zh=zh, en=en), variants=variants)


async def search(shop: Shop, text: str = "", brand_id: str = "", **attributes: str) -> list[str]:
    answer = await shop.catalog().SearchOffers(catalog_pb2.SearchOffersRequest(text=text, attributes=attributes, brand_id=brand_id))
    return [offer.id for offer in answer.offers]


async def test_created_product_is_found_in_both_languages(commerce: ServiceHarness) -> None:
    shop = Shop(commerce)
    stub = shop.catalog(brand_grant("brd_a"))
    answer = await stub.CreateProduct(
        catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id="brd_a", product=new_product("shirt", sizes=("40", "41")))
    )
    assert answer.product.name.zh == "白衬衫"
    assert answer.offer.id == "ofr_shirt"
    assert sorted(item.variant_id for item in answer.offer.goods) == ["var_shirt_40", "var_shirt_41"]
    await stub.CreateProduct(
        catalog_pb2.CreateProductRequest(
            request_id=new_key(), brand_id="brd_a", product=new_product("dress", en="Red dress", zh="红裙", sizes=("M",))
        )
    )
    assert await search(shop, "白衬衫") == await search(shop, "WHITE shirts") == ["ofr_shirt"]
    assert await search(shop, "shirt", size="41") == ["ofr_shirt"]
    assert await search(shop, "shirt", size="42") == await search(shop, "???") == []
    assert await search(shop, brand_id="brd_a") == ["ofr_dress", "ofr_shirt"]
    assert await search(shop, "裙", brand_id="brd_b") == []
    first = await shop.catalog().SearchOffers(catalog_pb2.SearchOffersRequest(page=PageRequest(first=1)))
    rest = await shop.catalog().SearchOffers(catalog_pb2.SearchOffersRequest(page=PageRequest(first=1, after=first.page.end_cursor)))
    assert [offer.id for offer in (*first.offers, *rest.offers)] == ["ofr_dress", "ofr_shirt"]
    assert (first.page.has_next_page, rest.page.has_next_page) == (True, False)


async def test_search_colour_before_name_finds_attribute(commerce: ServiceHarness) -> None:
    shop = Shop(commerce)
    for id, colour in (("a", "白色"), ("b", "黑色")):
        product = new_product(id, zh="男士衬衫", en="")
        product.variants[0].attributes["colour"] = colour
        await shop.catalog().CreateProduct(catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id="brd_a", product=product))
    assert await search(shop, "白衬衫") == await search(shop, "男士白色衬衫", size="40") == ["ofr_a"]
    assert await search(shop, "衬衫") == ["ofr_a", "ofr_b"]
    assert await search(shop, "红衬衫") == await search(shop, "白裤") == []


async def test_anonymous_caller_reads_catalog(shop: Shop) -> None:
    stub = type(shop.catalog())(shop.commerce.anonymous())
    assert (await stub.GetProduct(catalog_pb2.GetProductRequest(id="prd_shirt"))).product.brand_id == "brd_a"
    assert (await stub.GetOffer(catalog_pb2.GetOfferRequest(id="ofr_shirt"))).offer.price_from.minor == 39_900
    products = await stub.BatchGetProducts(catalog_pb2.BatchGetProductsRequest(ids=["prd_shirt", "prd_no"]))
    offers = await stub.BatchGetOffers(catalog_pb2.BatchGetOffersRequest(ids=["ofr_shirt", "ofr_no"]))
    variants = await stub.BatchGetVariants(catalog_pb2.BatchGetVariantsRequest(ids=["var_shirt_40", "var_no"]))
    listed = await stub.BatchListVariants(catalog_pb2.BatchListVariantsRequest(product_ids=["prd_shirt"]))
    assert (len(products.products), len(offers.offers)) == (1, 1)
    assert [variant.id for variant in variants.variants] == [variant.id for variant in listed.variants] == ["var_shirt_40"]
    assert dict(variants.variants[0].attributes) == {"size": "40", "colour": "white"}


async def test_brand_cannot_write_products_of_other_brand(shop: Shop) -> None:
    other = shop.catalog(brand_grant("brd_b"))
    with pytest.raises(Denied):
        await other.CreateProduct(catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id="brd_a", product=new_product("hat")))
    with pytest.raises(NotFound, match="VARIANT_NOT_FOUND"):
        await other.SetPrice(
            catalog_pb2.SetPriceRequest(request_id=new_key(), variant_id="var_shirt_40", price=Money(minor=1, currency="CNY"))
        )
    answer = await other.ImportProducts(
        catalog_pb2.ImportProductsRequest(request_id=new_key(), products=[new_product("hat", "brd_a"), new_product("cap", "brd_b")])
    )
    assert answer.imported == 1
    assert [(item.index, item.row_id, item.reason) for item in answer.rejects] == [(0, "prd_hat", "OUT_OF_SCOPE")]
    with pytest.raises(Conflict, match="PRODUCT_EXISTS"):
        await other.CreateProduct(
            catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id="brd_b", product=new_product("shirt", "brd_b"))
        )
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await other.CreateProduct(
            catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id="brd_b", product=new_product("hat", "brd_a"))
        )


async def test_set_price_updates_variant_and_offer(shop: Shop) -> None:
    stub = shop.catalog(brand_grant("brd_a"))
    answer = await stub.SetPrice(
        catalog_pb2.SetPriceRequest(request_id=new_key(), variant_id="var_shirt_40", price=Money(minor=19_900, currency="CNY"))
    )
    assert answer.variant.price.minor == 19_900
    offer = (await stub.GetOffer(catalog_pb2.GetOfferRequest(id="ofr_shirt"))).offer
    assert offer.price_from.minor == offer.goods[0].price.minor == 19_900
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await stub.SetPrice(
            catalog_pb2.SetPriceRequest(request_id=new_key(), variant_id="var_shirt_40", price=Money(minor=-1, currency="CNY"))
        )


async def test_import_rejects_bad_rows_and_is_idempotent(commerce: ServiceHarness) -> None:
    shop = Shop(commerce)
    rows = [
        new_product("a", sizes=("1", "2")),
        new_product("b", zh="", en=""),
        new_product("c", sizes=("1",)),
        catalog_pb2.NewProduct(product_id="prd_d", brand_id="brd_a", name=catalog_pb2.Text(zh="丁")),
        catalog_pb2.NewProduct(
            product_id="prd_e", brand_id="brd_a", name=catalog_pb2.Text(zh="戊"),
            variants=[catalog_pb2.NewVariant(variant_id="var_a_1", price=Money(minor=1, currency="CNY"))],
        ),
    ]  # fmt: skip
    request = catalog_pb2.ImportProductsRequest(request_id=new_key(), products=rows)
    first = await shop.catalog().ImportProducts(request)
    assert first.imported == 2
    assert [(item.index, item.reason) for item in first.rejects] == [(1, "NAME_MISSING"), (3, "INVALID_FIELD"), (4, "VARIANT_EXISTS")]
    assert await shop.catalog().ImportProducts(request) == first
    before = await shop.database["offers"].find({}, {"version": 0}).to_list(None)
    again = catalog_pb2.ImportProductsRequest(request_id=new_key(), products=rows)
    assert await shop.catalog().ImportProducts(again) == first
    assert await shop.database["offers"].find({}, {"version": 0}).to_list(None) == before
    # A later import of one size keeps the other sizes.
    await shop.catalog().ImportProducts(
        catalog_pb2.ImportProductsRequest(request_id=new_key(), products=[new_product("a", en="Blue shirt", zh="", sizes=("3",))])
    )
    offer = (await shop.catalog().GetOffer(catalog_pb2.GetOfferRequest(id="ofr_a"))).offer
    assert {item.variant_id for item in offer.goods} == {"var_a_1", "var_a_2", "var_a_3"}
    assert await search(shop, "blue", size="1") == ["ofr_a"]


async def test_catalog_queries_use_indexes(shop: Shop) -> None:
    catalog = [new_product(f"x{number}", en=f"Thing {number}", zh=f"物{number}") for number in range(60)]
    await shop.catalog().ImportProducts(catalog_pb2.ImportProductsRequest(request_id=new_key(), products=catalog))
    offers, variants = shop.database["offers"], shop.database["variants"]
    by_id = [("_id", 1)]
    for stages in (
        await plan_stages(offers, {"goods": {"$elemMatch": token_filter(search_tokens.tokenize_query("thing", {"size": "40"}))}}, by_id),
        await plan_stages(
            offers, {"goods": {"$elemMatch": token_filter(search_tokens.tokenize_query("白衬衫", {}))}, "brand_id": "brd_a"}, by_id
        ),
        await plan_stages(offers, {"brand_id": "brd_a"}, by_id),
        await plan_stages(variants, token_filter(search_tokens.tokenize_query("thing", {})), by_id),
        await plan_stages(variants, token_filter(search_tokens.tokenize_query("白衬衫", {"size": "40"})), by_id),
        await plan_stages(variants, {"product_id": {"$in": ["prd_x1", "prd_x2"]}}),
    ):
        assert "IXSCAN" in stages
        assert not stages & {"COLLSCAN", "SORT"}


async def test_first_offers_of_brands_equal_single_searches(commerce: ServiceHarness) -> None:
    shop = Shop(commerce)
    for brand_id, id, sizes in (
        ("brd_a", "a1", ("40",)),
        ("brd_a", "a2", ("40", "41")),
        ("brd_a", "a3", ("41",)),
        ("brd_b", "b1", ("40",)),
    ):
        product = new_product(id, brand_id, sizes=sizes)
        await shop.catalog(brand_grant(brand_id)).CreateProduct(
            catalog_pb2.CreateProductRequest(request_id=new_key(), brand_id=brand_id, product=product)
        )
    stub, rpc = shop.catalog(consumer_grant()), "CatalogService.BatchListOffers"
    for filters, counts in (
        ({}, {"brd_a": 3, "brd_b": 1}),
        ({"attributes": {"size": "41"}}, {"brd_a": 2}),
        ({"text": "白衬衫", "attributes": {"size": "40"}}, {"brd_a": 2, "brd_b": 1}),
    ):
        brand_ids, sibling = ["brd_a", "brd_b", "brd_none"], "CatalogService.SearchOffers"
        assert await assert_batch_equals_lists(stub, rpc, "brand_id", brand_ids, sibling=sibling, **filters) == counts
    with pytest.raises(Invalid, match="INVALID_FIELD"):
        await fetch_first_pages(stub, rpc, "brand_id", ["brd_a"], 1, text="x" * 201)
    assert await count_documents_read(shop.database, "offers", fetch_first_pages(stub, rpc, "brand_id", ["brd_a", "brd_b"], 1)) == 3
