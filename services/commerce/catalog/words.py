"""How a text is cut into the tokens it is found by.

Chinese, Japanese and Korean are written without spaces: a run of such characters is indexed by each character and each pair of
neighbours, and looked up by its pairs. Other scripts are indexed and looked up by words. Full and half width (NFKC), small and
capital letters are alike, and so are an English word and its plural in -s.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

PIECES = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af]+|[^\W_\u3040-\U000323af]+")
FIRST_UNSPACED = "\u3040"
PLURAL_LENGTH_MIN = 4


def normal(text: str) -> str:
    """The one form of texts that are alike."""
    # Case folding may leave what NFKC would compose, hence twice.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


def indexed(text: str) -> set[str]:
    """The tokens a text can be found by."""
    found: set[str] = set()
    for piece in PIECES.findall(normal(text)):
        if piece[0] < FIRST_UNSPACED:
            found.add(_singular(piece))
        else:
            found.update(piece)
            found.update(_pairs(piece))
    return found


def asked(text: str) -> set[str]:
    """The tokens that all must stand in what a query finds."""
    found: set[str] = set()
    for piece in PIECES.findall(normal(text)):
        if piece[0] < FIRST_UNSPACED:
            found.add(_singular(piece))
        else:
            found.update(_pairs(piece) if len(piece) > 1 else piece)
    return found


def attribute(name: str, value: str) -> str:
    """The token of an attribute: `size=40`. No word contains the sign."""
    return f"{normal(name)}={normal(value)}"


def of_variant(texts: Iterable[str], attributes: Mapping[str, str]) -> list[str]:
    """All tokens a variant is found by, in order: its texts, the values of its attributes, and its attributes exactly."""
    found = {attribute(name, value) for name, value in attributes.items()}
    for text in {*texts, *attributes.values()}:
        found |= indexed(text)
    return sorted(found)


def of_query(text: str, attributes: Mapping[str, str]) -> list[str]:
    """All tokens a variant must have; the longest, which are likely the rarest, first."""
    found = asked(text) | {attribute(name, value) for name, value in attributes.items()}
    return sorted(found, key=lambda token: (-len(token), token))


def _pairs(piece: str) -> set[str]:
    return {piece[place : place + 2] for place in range(len(piece) - 1)}


def _singular(word: str) -> str:
    return word[:-1] if len(word) >= PLURAL_LENGTH_MIN and word.endswith("s") and not word.endswith("ss") else word
