"""Search tokens, and the rules that compose products, variants and offers."""

import unicodedata
from collections.abc import Collection, Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.commerce.catalog import rules, search_tokens
from services.commerce.catalog.enums import Reason
from services.commerce.catalog.rules import NewProduct, NewVariant, Price, Text
from services.kit.errors import Conflict, Invalid

HAN = st.text(st.sampled_from("白衬衫男士长袖黑色连衣裙棉质经典"), min_size=1, max_size=12)
WORD = st.text(st.sampled_from("abcdefgtuwxyz0123456789"), min_size=1, max_size=8)
SEGMENTS = st.lists(st.one_of(HAN, WORD), min_size=1, max_size=6)


def matches(query: Iterable[Sequence[str]], tokens: Collection[str]) -> bool:
    return all(any(token in tokens for token in alternatives) for alternatives in query)


@given(SEGMENTS, st.data())
def test_part_of_text_finds_the_text(segments: list[str], data: st.DataObject) -> None:
    text = " ".join(segments)
    segment = data.draw(st.sampled_from(segments))
    if segment[0] > "\u3000":
        start = data.draw(st.integers(0, len(segment) - 1))
        segment = segment[start : data.draw(st.integers(start + 1, len(segment)))]
    assert matches(search_tokens.tokenize_query_text(segment), search_tokens.tokenize_text(text))
    assert search_tokens.tokenize_query_text(segment)


@given(st.text(max_size=60))
def test_text_finds_itself_in_any_normal_form(text: str) -> None:
    assert matches(search_tokens.tokenize_query_text(text), search_tokens.tokenize_text(text))
    assert search_tokens.tokenize_text(unicodedata.normalize("NFKC", text)) == search_tokens.tokenize_text(text)
    assert search_tokens.tokenize_text(search_tokens.normalize(text)) == search_tokens.tokenize_text(text)
    assert len(search_tokens.tokenize_text(text)) <= 2 * len(search_tokens.normalize(text))


@pytest.mark.parametrize(
    ("query", "name", "found"),
    [
        ("白衬衫", "男士白衬衫", True),
        ("白衬衫", "白色连衣裙 衬衫", False),
        ("衫", "男士白衬衫", True),
        ("White SHIRT", "Men's classic white shirts", True),
        ("ＷＨＩＴＥ　ｓｈｉｒｔ", "White shirt", True),
        ("white shirt", "white dress", False),
        ("hit", "white", False),
        ("dress", "dress", True),
        ("白shirt", "白 shirt", True),
    ],
)
def test_query_matches_text(query: str, name: str, found: bool) -> None:
    assert matches(search_tokens.tokenize_query_text(query), search_tokens.tokenize_text(name)) is found


@given(st.lists(HAN, min_size=1, max_size=3), HAN, st.data())
def test_query_joins_attribute_values_with_name(values: list[str], name: str, data: st.DataObject) -> None:
    tokens = search_tokens.tokenize_variant([name], {f"a{index}": f"{value}色" for index, value in enumerate(values)})
    start = data.draw(st.integers(0, len(name) - 1))
    part = name[start : data.draw(st.integers(start + 1, len(name)))]
    values = [value + data.draw(st.sampled_from(("", "色"))) for value in data.draw(st.permutations(values))]
    index = data.draw(st.integers(0, len(values)))
    assert matches(search_tokens.tokenize_query("".join((*values[:index], part, *values[index:])), {}), tokens)


@pytest.mark.parametrize(
    ("query", "name", "colour", "found"),
    [
        ("白衬衫", "衬衫", "白色", True),
        ("白色衬衫", "衬衫", "白色", True),
        ("男士白衬衫", "男士长袖衬衫", "白", True),
        ("男士白衬衫", "男士衬衫", "白", True),
        ("衬衫白色", "男士衬衫", "白色", True),
        ("白鞋", "运动鞋", "白色", True),
        ("蓝衬衫", "衬衫", "浅蓝色", True),
        ("黑衬衫", "衬衫", "白色", False),
        ("白裙", "衬衫", "白色", False),
        ("色衬", "衬衫", "white", False),
        ("衫衬", "衬衫", "白色", False),
        ("手机", "手提咖啡机", "白色", False),
    ],
)
def test_query_with_colour_matches_attribute(query: str, name: str, colour: str, found: bool) -> None:
    tokens = search_tokens.tokenize_variant([name, "", "shirt"], {"colour": colour, "size": "40"})
    assert matches(search_tokens.tokenize_query(query, {"size": "40"}), tokens) is found


def test_attribute_matches_exactly_and_not_by_text() -> None:
    tokens = set(search_tokens.tokenize_variant(["White shirt"], {"size": "40", "colour": "白"}))
    assert matches(search_tokens.tokenize_query("shirt 白", {"size": "４０"}), tokens)
    assert not matches(search_tokens.tokenize_query("", {"size": "4"}), tokens)
    assert not matches(search_tokens.tokenize_query_text("size=40"), search_tokens.tokenize_text("size 41"))


SHIRT = Text("白衬衫", "White shirt")


def shirt(*sizes: int, currency: str = "CNY", name: Text = SHIRT) -> NewProduct:
    variants = tuple(NewVariant(f"var_shirt_{size}", Price(currency, 39_900 + size), {"size": str(size)}) for size in sizes)
    return NewProduct("prd_shirt", "brd_a", variants, name, "shirt")


def test_composed_product_variants_and_offer_agree() -> None:
    composed = rules.compose(shirt(41, 40))
    assert composed.offer.id == "ofr_shirt"
    assert {variant.offer_id for variant in composed.variants} == {"ofr_shirt"}
    assert [item.variant_id for item in composed.offer.goods] == ["var_shirt_41", "var_shirt_40"]
    assert composed.offer.price_from == Price("CNY", 39_940)
    assert matches(search_tokens.tokenize_query("白衬衫", {"size": "40"}), composed.variants[1].search)


def test_unnamed_variants_stay_with_the_new_name() -> None:
    existing = rules.compose(shirt(40, 41)).variants
    composed = rules.compose(shirt(41, 42, name=Text(en="Poplin shirt")), existing)
    assert {variant.id for variant in composed.variants} == {"var_shirt_40", "var_shirt_41", "var_shirt_42"}
    assert all("poplin" in variant.search for variant in composed.variants)


def test_compose_is_idempotent() -> None:
    composed = rules.compose(shirt(40, 41))
    assert rules.compose(shirt(40, 41), composed.variants) == composed


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (shirt(40, name=Text("", "")), Reason.NAME_MISSING),
        (shirt(40, 40), Reason.VARIANT_REPEATED),
        (
            NewProduct(
                "prd_a",
                "brd_a",
                (NewVariant("var_a", Price("CNY", 1)), NewVariant("var_b", Price("CNY", 1))),
                Text("甲"),
            ),
            Reason.VARIANT_REPEATED,
        ),
        (
            NewProduct(
                "prd_a",
                "brd_a",
                (NewVariant("var_a", Price("CNY", 1), {"size": "1"}), NewVariant("var_b", Price("USD", 1), {"size": "2"})),
                Text("甲"),
            ),
            Reason.CURRENCY_MIXED,
        ),
    ],
)
def test_invalid_product_is_refused(new: NewProduct, reason: Reason) -> None:
    with pytest.raises(Invalid) as refusal:
        rules.compose(new)
    assert refusal.value.reason == reason


def test_used_id_is_refused() -> None:
    rules.check_ids_available(shirt(40), {"prd_shirt": "brd_a"}, {"var_shirt_40": "prd_shirt"})
    with pytest.raises(Conflict, match="PRODUCT_EXISTS"):
        rules.check_ids_available(shirt(40), {"prd_shirt": "brd_b"}, {})
    with pytest.raises(Conflict, match="VARIANT_EXISTS"):
        rules.check_ids_available(shirt(40), {}, {"var_shirt_40": "prd_other"})


def test_set_price_changes_offer_and_variant() -> None:
    composed = rules.compose(shirt(40, 41))
    offer, variant = rules.set_price(composed.offer, composed.variants[0], Price("CNY", 100))
    assert offer.price_from == variant.price == Price("CNY", 100)
    assert offer.goods[1] == composed.offer.goods[1]
    with pytest.raises(Invalid, match="CURRENCY_MIXED"):
        rules.set_price(composed.offer, composed.variants[0], Price("USD", 100))
