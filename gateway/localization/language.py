"""Language of the client, negotiated from `Accept-Language` when a message needs it: a request without errors pays nothing.

The language of a WebSocket and of an event stream is that of the request that opens it.
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from functools import lru_cache

ENGLISH, CHINESE = "en", "zh"
LANGUAGES = {"en": ENGLISH, "zh": CHINESE, "*": ENGLISH}
"""The language of the messages for each primary subtag: `zh-TW` and `zh-Hans` are `zh`."""
HEADER_BYTES_MAX = 256
"""Only this many bytes of an `Accept-Language` header are read, so that a rejected request stays cheap."""
CACHED_HEADERS_MAX = 64
"""This many `Accept-Language` headers are cached with their language."""
QUALITY = re.compile(r";\s*q=([01](?:\.\d{1,3})?)\s*$")

request_headers: ContextVar[Iterable[tuple[bytes, bytes]]] = ContextVar("request_headers", default=())
"""The headers of the current request, as ASGI has them."""


def current_language() -> str:
    """Returns the language of the client of the current request: English if it names none that the gateway has."""
    header = next((value for name, value in request_headers.get() if name == b"accept-language"), b"")
    return negotiate(header[:HEADER_BYTES_MAX])


@lru_cache(CACHED_HEADERS_MAX)
def negotiate(header: bytes) -> str:
    """Returns the language that an `Accept-Language` header prefers; of several equal ones, the first."""
    best, chosen = 0.0, ENGLISH
    for part in header.decode("latin-1").lower().split(","):
        language = LANGUAGES.get(part.partition(";")[0].strip().partition("-")[0])
        quality = QUALITY.search(part)
        weight = float(quality[1]) if quality else 1.0
        if language is not None and weight > best:
            best, chosen = weight, language
    return chosen
