"""Requests made from good ones by chance: other variables, other documents, other tokens, other bytes."""

import base64
import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import replace

from services.kit.mongo import pagination

WORD = re.compile(r"[A-Za-z_]\w*|\.{3}|\"[^\"]*\"|-?\d+|[^\s\w]")
LONG, ADDRESS_MAX = 5_000, 30_000
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, -(2**64), 10**30, 0.1, -0.0, 1e308, 5e-324,
    "", " ", "\x00", "\x7f", "é" * 300, "🧥" * 100, "‮", "\ud800", "x" * LONG, "a/../../etc/passwd", "%00", "$where", "{}", "[]", "null",
    "con_", "_", "ord_00000000-0000-0000-0000-000000000000",
    "2020-02-30T25:61:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2024-01-01",
    "1e5", "NaN", "Infinity", "-0", "0.005", "99999999999999999999.99",
    "CNY", "cny", "==", "AAAA", "ZXlKaGJHY2lPaUpJVXpJMU5pSjk",
    [], {}, [None], [[]], [[[[[[[[[]]]]]]]]], {"$gt": ""}, {"a": {"b": {"c": {}}}}, ["con_anna"] * 300,
    {str(number): number for number in range(300)},
)  # fmt: skip
"""What no good client sends."""
SCALARS: tuple[Any, ...] = (
    None, True, 0, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1e308, -0.0, float("nan"), float("inf"),
    "", "\x00", "$where", "x" * 600, "9999", "con_", b"\xff", [], {}, {"$gt": ""},
    *(datetime(*day, tzinfo=UTC) for day in ((1, 1, 1), (2024, 1, 1), (9999, 12, 31, 23, 59, 59, 999_999))),
)  # fmt: skip
"""What no cursor of ours holds."""
WORDS = (
    *("...", "{", "}", "(", ")", "[", "]", ":", "=", "!", "@", "$", "|", "&", '"', '"""', "#", "\ufeff", "-", "null", "true", "on"),
    *("query", "mutation", "subscription", "fragment", "__typename", "__schema", "__type", "id", "node", "nodes", "edges", "cursor"),
    *(
        "input",
        "first",
        "after",
        "@skip(if:true)",
        "@include(if:$first)",
        "@deprecated",
        "first:100",
        "first:-1",
        'after:"x"',
        "2147483648",
    ),
)
HEADERS: tuple[dict[str, str], ...] = (
    *({"content-type": value} for value in ("", "text/plain", "application/json; charset=utf-16", "application/json;", "multipart/x")),
    *({"accept": value} for value in ("", "*/*;q=x", "text/html", "text/event-stream", "application/json;q=nan", "," * 999, "*/*;q=1e999")),
    *({"content-encoding": value} for value in ("gzip", "br")),
    *({"traceparent": value} for value in ("00-" + "0" * 32 + "-" + "0" * 16 + "-01", "zz", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff")),
    {"x-forwarded-for": "999.1.1.1, ::, x"}, {"x-forwarded-proto": "javascript"}, {"sec-fetch-site": "cross-site"},
    {"origin": "null"}, {"cookie": "a=" + "b" * LONG}, {"expect": "100-continue"},
)  # fmt: skip


class Asked(Struct, frozen=True):
    """A request. `body` is JSON unless `raw` is given."""

    body: Any
    token: str = ""
    raw: bytes | None = None
    headers: dict[str, str] = {}
    get: bool = False

    def content(self) -> bytes:
        """The bytes to send."""
        return self.raw if self.raw is not None else json.dumps(self.body).encode()

    def address(self) -> str:
        """The same as the query of an address."""
        given = self.body.items() if isinstance(self.body, dict) else ()
        texts = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in given)
        return urlencode([(name, text.encode("utf-8", "surrogatepass")) for name, text in texts])[:ADDRESS_MAX]


def mutated(asked: Asked, everything: list[Asked], chance: random.Random) -> tuple[str, Asked]:
    """Another request made from one, some from several at once, and what was done to it."""
    names = [chance.choice(list(MUTATIONS))]
    while chance.random() < 0.2:
        names.append(chance.choice(list(MUTATIONS)))
    for name in names:
        asked = MUTATIONS[name](asked, everything, chance)
    return names[0], asked


def _variables(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """One value of the variables is another: hostile, taken from elsewhere, changed a little, missing, or one too many."""
    body = copy.deepcopy(_body(asked))
    places = list(_places(body.get("variables")))
    if not places:
        return replace(asked, body=body | {"variables": chance.choice(HOSTILE)})
    within, key = chance.choice(places)
    way = chance.randrange(5)
    if way == 0 and isinstance(within, dict):
        del within[key]
    elif way == 1 and isinstance(within, dict):
        within[chance.choice(WORDS)] = chance.choice(HOSTILE)
    elif way == 2:
        others = [place[each] for place, each in _places(chance.choice(everything).body["variables"])]
        within[key] = chance.choice(others) if others else None
    elif way == 3 and isinstance(within[key], str):
        within[key] = _bent(within[key], chance)
    else:
        within[key] = chance.choice(HOSTILE)
    return replace(asked, body=body)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)


def _bent(text: str, chance: random.Random) -> str:
    """A text with some characters changed, doubled, dropped or exchanged: ids, cursors and tokens that are nearly right."""
    letters = list(text)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(letters) + 1)
        letters[at : at + chance.randrange(2)] = chance.choice(["", "A", "_", "=", ".", "0", "é", "\x00", chance.choice(text or "x") * 2])
    return "".join(letters)[:: chance.choice([1, 1, 1, -1])]


def _cursors(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """A list is asked after what no list ever had: a cursor is opened, changed and closed again, or is that of another list."""
    lists = [each for each in everything if _after(each)]
    asked = chance.choice(lists)
    found = pagination.opened(_after(asked), list[Any]) or ["", ""]
    at = chance.randrange(len(found))
    others = pagination.opened(_after(chance.choice(lists)), list[Any]) or [""]
    found[at : at + 1] = chance.choice([[], [found[at]] * 2, [chance.choice(SCALARS)], [chance.choice(SCALARS)], [chance.choice(others)]])
    after = _after(chance.choice(lists)) if chance.random() < 0.1 else pagination.token(found)
    variables = asked.body["variables"] | {"after": after}
    return replace(asked, body=asked.body | {"variables": variables})


def _after(asked: Asked) -> str:
    """The cursor that is asked after; empty when none is."""
    return _body(asked).get("variables", {}).get("after") or ""


def _document(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """Some words of the document are missing, doubled, exchanged or others'."""
    query = asked.body.get("query") if isinstance(asked.body, dict) else None
    words = (WORD.findall(query) if isinstance(query, str) else None) or ["{"]
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.randrange(len(words))
        other = chance.choice(everything).body.get("query") or "{id}"
        own = [words[at]]
        words[at : at + 1] = chance.choice(
            [[], own * 2, own * 40, [chance.choice(WORDS)], [chance.choice(WORD.findall(other) or ["id"])], [*own, chance.choice(WORDS)]]
        )
        words = words or ["{"]
    return replace(asked, body=_body(asked) | {"query": " ".join(words)})


def _spliced(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """The document of one with the variables of another, or with a part of another document in its middle."""
    other = _body(chance.choice(everything))
    if chance.random() < 0.5:
        return replace(asked, body=_body(asked) | {"variables": other.get("variables")})
    here, there = str(_body(asked).get("query")), str(other.get("query"))
    at, start = chance.randrange(len(here) + 1), chance.randrange(len(there) + 1)
    return replace(asked, body=_body(asked) | {"query": here[:at] + there[start : start + chance.randrange(200)] + here[at:]})


def _envelope(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """The parts of the request around the document."""
    names = ["operationName", "variables", "extensions", "documentId", "query", "id", "batch"]
    values = (*HOSTILE, {"persistedQuery": {"version": 1, "sha256Hash": "x"}}, {"persistedQuery": {"sha256Hash": 7}}, {"cost": True})
    given = _body(asked) | {chance.choice(names): chance.choice(values)}
    return replace(asked, body=[given] if chance.random() < 0.1 else given, get=chance.random() < 0.3)


def _token(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """A token that is nearly right, somebody else's, or none at all."""
    token = asked.token or chance.choice(everything).token
    header, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    bent = (_bent(token, chance), f"{header}.{_bent(payload, chance)}.{signature}", token[: chance.randrange(len(token) + 1)])
    parts = (f"{none}.{payload}.", f"{header}.{payload}.", f"{header}..{signature}", "." * chance.randrange(9), f"{token} {token}")
    others = ("", chance.choice(everything).token, "x" * 20_000, f"{header}.{'A' * 9_000}.{signature}")
    return replace(asked, token=chance.choice((*bent, *parts, *others)).replace("\x00", "").strip())  # no client sends the rest in a header


def _bytes(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """The body's bytes."""
    sent = bytearray(asked.content())
    for _ in range(chance.choice([1, 1, 3, 20])):
        at = chance.randrange(len(sent) + 1)
        some = chance.choice([b"", b"\xff", b"\x00", b"{", b"[" * 2_000, b'"', b"\\ud800", b",", b"1e999", b"NaN", chance.randbytes(8)])
        sent[at : at + chance.randrange(3)] = some
    whole = chance.choice(
        [bytes(sent)] * 6 + [bytes(sent[: chance.randrange(len(sent) + 1)]), bytes(sent) * 9, chance.randbytes(300), b" " * 300_000]
    )
    return replace(asked, raw=whole)


def _headers(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """The headers."""
    return replace(asked, headers=asked.headers | chance.choice(HEADERS))


def _unchanged(asked: Asked, everything: list[Asked], chance: random.Random) -> Asked:
    """The good one, again: whoever asked before."""
    return asked


def _body(asked: Asked) -> dict[str, Any]:
    return asked.body if isinstance(asked.body, dict) else {}


MUTATIONS: dict[str, Callable[[Asked, list[Asked], random.Random], Asked]] = {
    "as they were": _unchanged,
    "variables": _variables,
    "cursors": _cursors,
    "documents": _document,
    "spliced": _spliced,
    "envelopes": _envelope,
    "tokens": _token,
    "bytes": _bytes,
    "headers": _headers,
}
