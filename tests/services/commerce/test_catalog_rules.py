"""How texts are found, and how products, variants and offers come about."""

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
PIECES = st.lists(st.one_of(HAN, WORD), min_size=1, max_size=6)


def finds(asked: Iterable[Sequence[str]], tokens: Collection[str]) -> bool:
    return all(any(token in tokens for token in one) for one in asked)


@given(PIECES, st.data())
def test_any_stretch_of_chinese_and_any_words_of_a_text_find_it(pieces: list[str], data: st.DataObject) -> None:
    text = " ".join(pieces)
    piece = data.draw(st.sampled_from(pieces))
    if piece[0] > "\u3000":
        start = data.draw(st.integers(0, len(piece) - 1))
        piece = piece[start : data.draw(st.integers(start + 1, len(piece)))]
    assert finds(search_tokens.asked(piece), search_tokens.indexed(text))
    assert search_tokens.asked(piece)


@given(st.text(max_size=60))
def test_a_text_finds_itself_however_it_is_written(text: str) -> None:
    assert finds(search_tokens.asked(text), search_tokens.indexed(text))
    assert search_tokens.indexed(unicodedata.normalize("NFKC", text)) == search_tokens.indexed(text)
    assert search_tokens.indexed(search_tokens.normal(text)) == search_tokens.indexed(text)
    assert len(search_tokens.indexed(text)) <= 2 * len(search_tokens.normal(text))


@pytest.mark.parametrize(
    ("asked", "name", "found"),
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
def test_what_a_question_finds(asked: str, name: str, found: bool) -> None:
    assert finds(search_tokens.asked(asked), search_tokens.indexed(name)) is found


@given(st.lists(HAN, min_size=1, max_size=3), HAN, st.data())
def test_what_a_thing_is_like_is_asked_in_one_run_with_its_name(values: list[str], name: str, data: st.DataObject) -> None:
    tokens = search_tokens.of_variant([name], {f"a{place}": f"{value}色" for place, value in enumerate(values)})
    start = data.draw(st.integers(0, len(name) - 1))
    stretch = name[start : data.draw(st.integers(start + 1, len(name)))]
    said = [value + data.draw(st.sampled_from(("", "色"))) for value in data.draw(st.permutations(values))]
    place = data.draw(st.integers(0, len(said)))
    assert finds(search_tokens.of_query("".join((*said[:place], stretch, *said[place:])), {}), tokens)


@pytest.mark.parametrize(
    ("asked", "name", "colour", "found"),
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
def test_a_colour_before_what_has_it(asked: str, name: str, colour: str, found: bool) -> None:
    tokens = search_tokens.of_variant([name, "", "shirt"], {"colour": colour, "size": "40"})
    assert finds(search_tokens.of_query(asked, {"size": "40"}), tokens) is found


def test_an_attribute_is_found_exactly_and_never_by_a_word() -> None:
    tokens = set(search_tokens.of_variant(["White shirt"], {"size": "40", "colour": "白"}))
    assert finds(search_tokens.of_query("shirt 白", {"size": "４０"}), tokens)
    assert not finds(search_tokens.of_query("", {"size": "4"}), tokens)
    assert not finds(search_tokens.asked("size=40"), search_tokens.indexed("size 41"))


SHIRT = Text("白衬衫", "White shirt")


def shirt(*sizes: int, currency: str = "CNY", name: Text = SHIRT) -> NewProduct:
    variants = tuple(NewVariant(f"var_shirt_{size}", Price(currency, 39_900 + size), {"size": str(size)}) for size in sizes)
    return NewProduct("prd_shirt", "brd_a", variants, name, "shirt")


def test_a_product_its_variants_and_its_offer_tell_the_same() -> None:
    made = rules.compose(shirt(41, 40))
    assert made.offer.id == "ofr_shirt"
    assert {variant.offer_id for variant in made.variants} == {"ofr_shirt"}
    assert [item.variant_id for item in made.offer.goods] == ["var_shirt_41", "var_shirt_40"]
    assert made.offer.price_from == Price("CNY", 39_940)
    assert finds(search_tokens.of_query("白衬衫", {"size": "40"}), made.variants[1].search)


def test_what_an_import_no_longer_names_stays_under_the_new_name() -> None:
    standing = rules.compose(shirt(40, 41)).variants
    made = rules.compose(shirt(41, 42, name=Text(en="Poplin shirt")), standing)
    assert {variant.id for variant in made.variants} == {"var_shirt_40", "var_shirt_41", "var_shirt_42"}
    assert all("poplin" in variant.search for variant in made.variants)


def test_composing_again_changes_nothing() -> None:
    made = rules.compose(shirt(40, 41))
    assert rules.compose(shirt(40, 41), made.variants) == made


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
def test_what_is_no_product(new: NewProduct, reason: Reason) -> None:
    with pytest.raises(Invalid) as refused:
        rules.compose(new)
    assert refused.value.reason == reason


def test_an_id_that_stands_for_something_else_is_not_taken_over() -> None:
    rules.check_free(shirt(40), {"prd_shirt": "brd_a"}, {"var_shirt_40": "prd_shirt"})
    with pytest.raises(Conflict, match="PRODUCT_EXISTS"):
        rules.check_free(shirt(40), {"prd_shirt": "brd_b"}, {})
    with pytest.raises(Conflict, match="VARIANT_EXISTS"):
        rules.check_free(shirt(40), {}, {"var_shirt_40": "prd_other"})


def test_a_price_changes_in_offer_and_variant_at_once() -> None:
    made = rules.compose(shirt(40, 41))
    offer, variant = rules.set_price(made.offer, made.variants[0], Price("CNY", 100))
    assert offer.price_from == variant.price == Price("CNY", 100)
    assert offer.goods[1] == made.offer.goods[1]
    with pytest.raises(Invalid, match="CURRENCY_MIXED"):
        rules.set_price(made.offer, made.variants[0], Price("USD", 100))
