"""How a text is cut into the tokens it is found by.

Chinese, Japanese and Korean are written without spaces: a run of such characters is indexed by each character and each pair of
neighbours, and looked up by its pairs. Other scripts are indexed and looked up by words. Full and half width (NFKC), small and
capital letters are alike, and so are an English word and its plural in -s.

What a thing is like is asked in one run with its name (白衬衫), but stands apart in a catalog: 衬衫 with {colour: "白色"}. So two
characters of a question need not be neighbours where the value of an attribute ends with the one or begins with the other.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

PIECES = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af]+|[^\W_\u3040-\U000323af]+")
FIRST_UNSPACED = "\u3040"
PLURAL_LENGTH_MIN = 4
COLOUR = "色"
"""白色 is asked for as 白, too."""


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


def asked(text: str) -> set[tuple[str, ...]]:
    """The tokens of which what a query finds must have one each: a word, a character, a pair of neighbours or what may part them."""
    found: set[tuple[str, ...]] = set()
    for piece in PIECES.findall(normal(text)):
        if piece[0] < FIRST_UNSPACED:
            found.add((_singular(piece),))
        else:
            found.update((character,) for character in piece)
            found.update((pair, _ending(pair[0]), _beginning(pair[1])) for pair in _pairs(piece))
    return found


def attribute(name: str, value: str) -> str:
    """The token of an attribute: `size=40`. No word contains the sign."""
    return f"{normal(name)}={normal(value)}"


def of_variant(texts: Iterable[str], attributes: Mapping[str, str]) -> list[str]:
    """All tokens a variant is found by, in order: its texts, the values of its attributes and their ends, and its attributes exactly."""
    found = {attribute(name, value) for name, value in attributes.items()}
    for text in {*texts, *attributes.values()}:
        found |= indexed(text)
    for value in attributes.values():
        found |= _ends(value)
    return sorted(found)


def of_query(text: str, attributes: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The tokens of which a variant must have one each; those that are likely the rarest first, by the length of the first."""
    found = asked(text) | {(attribute(name, value),) for name, value in attributes.items()}
    return sorted(found, key=lambda tokens: (-len(tokens[0]), tokens))


def _ends(value: str) -> set[str]:
    """How a value's runs begin and end: 白色 begins with 白 and ends with 色, or with 白."""
    runs = [piece for piece in PIECES.findall(normal(value)) if piece[0] >= FIRST_UNSPACED]
    stems = [run.removesuffix(COLOUR) or run for run in runs]
    return {_beginning(run[0]) for run in runs} | {_ending(run[-1]) for run in (*runs, *stems)}


def _beginning(character: str) -> str:
    return f"<{character}"


def _ending(character: str) -> str:
    return f"{character}>"


def _pairs(piece: str) -> set[str]:
    return {piece[place : place + 2] for place in range(len(piece) - 1)}


def _singular(word: str) -> str:
    return word[:-1] if len(word) >= PLURAL_LENGTH_MIN and word.endswith("s") and not word.endswith("ss") else word
