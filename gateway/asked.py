"""The GraphQL request within an HTTP request, and the media type that its answer is wanted in."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request

from gateway.documents import Documents
from gateway.overdue import Overdue
from gateway.wire import Exchange, exchange_of
from services.kit.settings import Settings

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"
EVENT_STREAM = "text/event-stream"
BAD_REQUEST = "BAD_REQUEST"
BODY_SECONDS_MAX = 5.0
KEPT_MAX = 64
"""`Accept` and `Content-Type` headers whose meaning is kept."""
PREFLIGHT = ("authorization", "x-requested-with", "graphql-require-preflight", "apollo-require-preflight")
"""Headers that a page of another site can send only when the gateway allows that page to."""


class BadRequest(Exception):
    """The HTTP request is no GraphQL request; it is answered with `status`."""

    def __init__(self, status: int, message: str, code: str = BAD_REQUEST) -> None:
        self.status, self.message, self.code = status, message, code
        super().__init__(message)


class Asked(Struct, frozen=True):
    """A GraphQL request. `wants_cost`: its answer tells what it cost."""

    query: str
    operation_name: str | None = None
    variables: dict[str, Any] | None = None
    wants_cost: bool = False


class Reader:
    """Reads requests within the bounds of the settings. Everything that is wrong with one is a `BadRequest`."""

    def __init__(self, settings: Settings, documents: Documents | None) -> None:
        self.bytes_max, self.values_max, self.documents = settings.limit_body_bytes, settings.limit_variables, documents
        self.overdue = Overdue(BODY_SECONDS_MAX)

    async def read(self, request: Request) -> Asked:
        """The GraphQL request within an HTTP request."""
        if request.method == "GET":
            return self.asked(_of_address(request))
        return self.posted(request.headers.get("content-type", "").encode("latin-1"), await self.body(request))

    def posted(self, content_type: bytes, body: bytes | bytearray) -> Asked:
        """The same of what was posted."""
        _check(content_type)
        given = _parsed(body, "the body")
        if not isinstance(given, dict):
            raise BadRequest(400, "the body is one JSON object; batches are not taken")
        return self.asked(given)

    def came(self, exchange: Exchange) -> bytearray:
        """The raw body of a request that our own server has received: the door has waited for it."""
        body = exchange.body
        if len(body) > self.bytes_max:
            raise self._too_long()
        if not exchange.came:
            raise BadRequest(400, "the body did not arrive") if exchange.gone else BadRequest(408, "the body did not arrive in time")
        return body

    def _too_long(self) -> BadRequest:
        return BadRequest(413, f"a body has at most {self.bytes_max} bytes")

    async def body(self, request: Request) -> bytes:
        """The raw body, within its bytes and in its time."""
        if (exchange := exchange_of(request.scope)) is not None:
            return bytes(self.came(exchange))
        try:
            return await self.overdue.within(self._body(request))
        except TimeoutError:
            raise BadRequest(408, "the body did not arrive in time") from None

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self.bytes_max:
                    raise self._too_long()
        except ClientDisconnect:
            raise BadRequest(400, "the body did not arrive") from None
        return bytes(body)

    def asked(self, given: Mapping[str, Any]) -> Asked:
        """The GraphQL request that these are the parts of."""
        query, name = given.get("query"), given.get("operationName")
        variables, extensions = given.get("variables"), given.get("extensions")
        if name is not None and not isinstance(name, str):
            raise BadRequest(400, "operationName is no text")
        if not isinstance(variables, dict | None):
            raise BadRequest(400, "variables is no object")
        if not isinstance(extensions, dict | None):
            raise BadRequest(400, "extensions is no object")
        if variables and _more_values_than(self.values_max, variables):
            raise BadRequest(400, f"variables have at most {self.values_max} values")
        text = self._trusted(query, given.get("documentId"), extensions or {})
        return Asked(text, name or None, variables, bool(extensions and extensions.get("cost") is True))

    def _trusted(self, query: Any, id: Any, extensions: Mapping[str, Any]) -> str:
        """The document's text: by its id when that is given."""
        persisted = extensions.get("persistedQuery")
        if id is None and isinstance(persisted, dict):
            id = persisted.get("sha256Hash")
        if not isinstance(query, str | None) or not isinstance(id, str | None) or (query is None and id is None):
            raise BadRequest(400, "query is missing or no text")
        if self.documents is None:
            if query is None:
                raise BadRequest(400, "PersistedQueryNotSupported", "PERSISTED_QUERY_NOT_SUPPORTED")
            return query
        text = self.documents.text(id, query)
        if text is None and id is not None:
            raise BadRequest(400, "PersistedQueryNotFound", "PERSISTED_QUERY_NOT_FOUND")
        if text is None:
            raise BadRequest(400, "only trusted documents are taken; send a documentId", "DOCUMENT_NOT_TRUSTED")
        return text


@lru_cache(KEPT_MAX)
def _check(content_type: bytes) -> None:
    """BadRequest unless a body of that type is JSON in UTF-8."""
    media, _, charset = (text.strip().lower() for text in content_type.decode("latin-1").partition(";"))
    if media != JSON:
        raise BadRequest(415, f"send {JSON}")
    if charset and charset.replace('"', "") not in ("charset=utf-8", "charset=utf8"):
        raise BadRequest(415, "send UTF-8")


def _of_address(request: Request) -> dict[str, Any]:
    """The request within a GET's address. A browser that sends it for another site needs that site to be allowed to."""
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and not any(name in request.headers for name in PREFLIGHT):
        raise BadRequest(403, f"a page of another site sends one of {', '.join(PREFLIGHT)}")
    given: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if name in given:
            given[name] = _parsed(given[name].encode(), name)
    return given


def _parsed(text: bytes | bytearray, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequest(400, f"{what} is no JSON") from None


def _more_values_than(most: int, given: dict[str, Any]) -> bool:
    count, inner = 0, [given.values()]
    while inner:
        values = inner.pop()
        count += len(values)
        if count > most:
            return True
        for value in values:
            if isinstance(value, dict):
                inner.append(value.values())
            elif isinstance(value, list):
                inner.append(value)  # type: ignore[arg-type]
    return False


@lru_cache(KEPT_MAX)
def accepted(header: bytes | None) -> str | None:
    """The media type to answer in; None when the client takes neither of ours."""
    best, chosen = 0.0, None
    for part in (header.decode("latin-1") if header else "*/*").split(","):
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        offered = {GRAPHQL: GRAPHQL, JSON: JSON, EVENT_STREAM: EVENT_STREAM, "application/*": JSON, "*/*": JSON}.get(name)
        weight = _weight(parameters)
        if offered is not None and weight > best:
            best, chosen = weight, offered
    return chosen


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
