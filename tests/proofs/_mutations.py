"""Random mutations of valid requests: their variables, documents, tokens and bytes."""

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
"""Values that no valid client sends."""
SCALARS: tuple[Any, ...] = (
    None, True, 0, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1e308, -0.0, float("nan"), float("inf"),
    "", "\x00", "$where", "x" * 600, "9999", "con_", b"\xff", [], {}, {"$gt": ""},
    *(datetime(*day, tzinfo=UTC) for day in ((1, 1, 1), (2024, 1, 1), (9999, 12, 31, 23, 59, 59, 999_999))),
)  # fmt: skip
"""Values that no cursor of the suite contains."""
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


class FuzzRequest(Struct, frozen=True):
    """A request. `raw` replaces the JSON of `body`."""

    body: Any
    token: str = ""
    raw: bytes | None = None
    headers: dict[str, str] = {}
    get: bool = False

    def content(self) -> bytes:
        """Returns the bytes of the body."""
        return self.raw if self.raw is not None else json.dumps(self.body).encode()

    def query_string(self) -> str:
        """Returns the parameters of a GET request."""
        parameters = self.body.items() if isinstance(self.body, dict) else ()
        texts = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in parameters)
        return urlencode([(name, text.encode("utf-8", "surrogatepass")) for name, text in texts])[:ADDRESS_MAX]


def mutate_request(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> tuple[str, FuzzRequest]:
    """Returns the name of the first mutation and the mutated request; some requests have several mutations."""
    names = [rng.choice(list(MUTATIONS))]
    while rng.random() < 0.2:
        names.append(rng.choice(list(MUTATIONS)))
    for name in names:
        request = MUTATIONS[name](request, requests, rng)
    return names[0], request


def _variables(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Replaces one variable by a hostile, foreign or slightly changed value, removes it, or adds one."""
    body = copy.deepcopy(_body(request))
    places = list(_places(body.get("variables")))
    if not places:
        return replace(request, body=body | {"variables": rng.choice(HOSTILE)})
    within, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0 and isinstance(within, dict):
        del within[key]
    elif kind == 1 and isinstance(within, dict):
        within[rng.choice(WORDS)] = rng.choice(HOSTILE)
    elif kind == 2:
        others = [place[each] for place, each in _places(rng.choice(requests).body["variables"])]
        within[key] = rng.choice(others) if others else None
    elif kind == 3 and isinstance(within[key], str):
        within[key] = _corrupt(within[key], rng)
    else:
        within[key] = rng.choice(HOSTILE)
    return replace(request, body=body)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)


def _corrupt(text: str, rng: random.Random) -> str:
    """Returns a text with some characters changed, doubled or dropped: nearly valid ids, cursors and tokens."""
    letters = list(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(letters) + 1)
        letters[at : at + rng.randrange(2)] = rng.choice(["", "A", "_", "=", ".", "0", "é", "\x00", rng.choice(text or "x") * 2])
    return "".join(letters)[:: rng.choice([1, 1, 1, -1])]


def _cursors(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Replaces the cursor of a list by a changed one or by that of another list."""
    lists = [each for each in requests if _after(each)]
    request = rng.choice(lists)
    found = pagination.decode_token(_after(request), list[Any]) or ["", ""]
    at = rng.randrange(len(found))
    others = pagination.decode_token(_after(rng.choice(lists)), list[Any]) or [""]
    found[at : at + 1] = rng.choice([[], [found[at]] * 2, [rng.choice(SCALARS)], [rng.choice(SCALARS)], [rng.choice(others)]])
    after = _after(rng.choice(lists)) if rng.random() < 0.1 else pagination.encode_token(found)
    variables = request.body["variables"] | {"after": after}
    return replace(request, body=request.body | {"variables": variables})


def _after(request: FuzzRequest) -> str:
    """Returns the cursor in `after`; empty if there is none."""
    return _body(request).get("variables", {}).get("after") or ""


def _document(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Removes, doubles or replaces some words of the document."""
    query = request.body.get("query") if isinstance(request.body, dict) else None
    words = (WORD.findall(query) if isinstance(query, str) else None) or ["{"]
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(words))
        other = rng.choice(requests).body.get("query") or "{id}"
        own = [words[at]]
        words[at : at + 1] = rng.choice(
            [[], own * 2, own * 40, [rng.choice(WORDS)], [rng.choice(WORD.findall(other) or ["id"])], [*own, rng.choice(WORDS)]]
        )
        words = words or ["{"]
    return replace(request, body=_body(request) | {"query": " ".join(words)})


def _splice(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Combines the document with the variables or a part of the document of another request."""
    other = _body(rng.choice(requests))
    if rng.random() < 0.5:
        return replace(request, body=_body(request) | {"variables": other.get("variables")})
    here, there = str(_body(request).get("query")), str(other.get("query"))
    at, start = rng.randrange(len(here) + 1), rng.randrange(len(there) + 1)
    return replace(request, body=_body(request) | {"query": here[:at] + there[start : start + rng.randrange(200)] + here[at:]})


def _envelope(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Replaces a parameter other than the variables."""
    names = ["operationName", "variables", "extensions", "documentId", "query", "id", "batch"]
    values = (*HOSTILE, {"persistedQuery": {"version": 1, "sha256Hash": "x"}}, {"persistedQuery": {"sha256Hash": 7}}, {"cost": True})
    parameters = _body(request) | {rng.choice(names): rng.choice(values)}
    return replace(request, body=[parameters] if rng.random() < 0.1 else parameters, get=rng.random() < 0.3)


def _token(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Replaces the token by a corrupt one, that of another request, or none."""
    token = request.token or rng.choice(requests).token
    header, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    corrupt = (_corrupt(token, rng), f"{header}.{_corrupt(payload, rng)}.{signature}", token[: rng.randrange(len(token) + 1)])
    parts = (f"{none}.{payload}.", f"{header}.{payload}.", f"{header}..{signature}", "." * rng.randrange(9), f"{token} {token}")
    others = ("", rng.choice(requests).token, "x" * 20_000, f"{header}.{'A' * 9_000}.{signature}")
    return replace(
        request, token=rng.choice((*corrupt, *parts, *others)).replace("\x00", "").strip()
    )  # a header cannot contain these characters


def _bytes(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Changes some bytes of the body."""
    sent = bytearray(request.content())
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(sent) + 1)
        some = rng.choice([b"", b"\xff", b"\x00", b"{", b"[" * 2_000, b'"', b"\\ud800", b",", b"1e999", b"NaN", rng.randbytes(8)])
        sent[at : at + rng.randrange(3)] = some
    whole = rng.choice(
        [bytes(sent)] * 6 + [bytes(sent[: rng.randrange(len(sent) + 1)]), bytes(sent) * 9, rng.randbytes(300), b" " * 300_000]
    )
    return replace(request, raw=whole)


def _headers(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Replaces a header."""
    return replace(request, headers=request.headers | rng.choice(HEADERS))


def _keep(request: FuzzRequest, requests: list[FuzzRequest], rng: random.Random) -> FuzzRequest:
    """Returns the valid request."""
    return request


def _body(request: FuzzRequest) -> dict[str, Any]:
    return request.body if isinstance(request.body, dict) else {}


MUTATIONS: dict[str, Callable[[FuzzRequest, list[FuzzRequest], random.Random], FuzzRequest]] = {
    "unchanged": _keep,
    "variables": _variables,
    "cursors": _cursors,
    "documents": _document,
    "spliced": _splice,
    "envelopes": _envelope,
    "tokens": _token,
    "bytes": _bytes,
    "headers": _headers,
}
