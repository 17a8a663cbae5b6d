"""Search tokens: splits a text into the tokens that index it, and a query into the tokens that match.

Chinese, Japanese and Korean have no spaces. A run of such characters is indexed by its characters and bigrams, and a query matches by
bigrams. Other scripts are indexed and matched by words. Full and half width (NFKC) and letter case are equal, and so are an English
word and its plural in -s.

A query names an attribute and the product in one run (白衬衫), while the catalog has 衬衫 with {colour: "白色"}. So a bigram of a query
also matches where an attribute's value ends with its first character or begins with its second.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

SEGMENT = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af]+|[^\W_\u3040-\U000323af]+")
"""A segment is a run of characters of a script without spaces, or a word of another script."""
FIRST_CJK = "\u3040"
"""Segments that begin with this character or a later one are Chinese, Japanese or Korean."""
PLURAL_LENGTH_MIN = 4
"""Shorter words keep a final -s."""
COLOUR_SUFFIX = "色"
"""Queries may leave this suffix of a colour out: 白 matches 白色."""


def normalize(text: str) -> str:
    """Returns the common form of texts that differ only in width or letter case."""
    # Case folding may leave characters that NFKC composes, hence twice.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


def tokenize_text(text: str) -> set[str]:
    """Returns the tokens that index a text."""
    tokens: set[str] = set()
    for segment in SEGMENT.findall(normalize(text)):
        if segment[0] < FIRST_CJK:
            tokens.add(_singularize(segment))
        else:
            tokens.update(segment)
            tokens.update(_bigrams(segment))
    return tokens


def tokenize_query_text(text: str) -> set[tuple[str, ...]]:
    """Returns the alternatives of a query's text: a match has at least one token of each tuple."""
    alternatives: set[tuple[str, ...]] = set()
    for segment in SEGMENT.findall(normalize(text)):
        if segment[0] < FIRST_CJK:
            alternatives.add((_singularize(segment),))
        else:
            alternatives.update((character,) for character in segment)
            alternatives.update((bigram, _end_token(bigram[0]), _start_token(bigram[1])) for bigram in _bigrams(segment))
    return alternatives


def tokenize_attribute(name: str, value: str) -> str:
    """Returns the token of an attribute, like `size=40`. No token of a text contains the equals sign."""
    return f"{normalize(name)}={normalize(value)}"


def tokenize_variant(texts: Iterable[str], attributes: Mapping[str, str]) -> list[str]:
    """Returns the sorted tokens that index a variant: of its texts, of its attributes, and of their values with their edges."""
    tokens = {tokenize_attribute(name, value) for name, value in attributes.items()}
    for text in {*texts, *attributes.values()}:
        tokens |= tokenize_text(text)
    for value in attributes.values():
        tokens |= _edge_tokens(value)
    return sorted(tokens)


def tokenize_query(text: str, attributes: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Returns the alternatives of a query: a matching variant has at least one token of each tuple.

    Tuples with a long first token come first because they are likely the rarest.
    """
    alternatives = tokenize_query_text(text) | {(tokenize_attribute(name, value),) for name, value in attributes.items()}
    return sorted(alternatives, key=lambda tokens: (-len(tokens[0]), tokens))


def _edge_tokens(value: str) -> set[str]:
    """Returns the tokens of the first and last characters of a value's segments: 白色 has <白, 色> and 白>."""
    segments = [segment for segment in SEGMENT.findall(normalize(value)) if segment[0] >= FIRST_CJK]
    stems = [segment.removesuffix(COLOUR_SUFFIX) or segment for segment in segments]
    return {_start_token(segment[0]) for segment in segments} | {_end_token(segment[-1]) for segment in (*segments, *stems)}


def _start_token(character: str) -> str:
    return f"<{character}"


def _end_token(character: str) -> str:
    return f"{character}>"


def _bigrams(segment: str) -> set[str]:
    return {segment[index : index + 2] for index in range(len(segment) - 1)}


def _singularize(word: str) -> str:
    return word[:-1] if len(word) >= PLURAL_LENGTH_MIN and word.endswith("s") and not word.endswith("ss") else word
