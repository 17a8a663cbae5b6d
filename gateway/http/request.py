"""A GraphQL request within an HTTP request, and the media type of its response."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Receive

from gateway.execution.request import BadRequest, GraphQLRequest
from gateway.execution.trusted_documents import TrustedDocuments
from services.kit.settings import Settings

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"
EVENT_STREAM = "text/event-stream"
CACHED_HEADERS_MAX = 64
"""This many `Accept` and `Content-Type` headers are cached with their meaning."""
PREFLIGHT = ("authorization", "x-requested-with", "graphql-require-preflight", "apollo-require-preflight")
"""A page of another site can send these headers only after a CORS preflight."""


class RequestParser:
    """Parses requests within the limits of the settings. Raises `BadRequest`."""

    def __init__(self, settings: Settings, documents: TrustedDocuments | None) -> None:
        self.bytes_max, self.values_max, self.documents = settings.limit_body_bytes, settings.limit_variables, documents

    async def read(self, request: Request) -> GraphQLRequest:
        """Reads a GET or POST request."""
        if request.method == "GET":
            return self.parse(_query_parameters(request))
        return self.parse_body(request.headers.get("content-type", "").encode("latin-1"), await self.read_body(request.receive))

    async def read_body(self, receive: Receive) -> bytes:
        """Returns the body, which `LoadSheddingMiddleware` passes on as one message."""
        body: bytes = (await receive())["body"]
        if len(body) > self.bytes_max:
            raise BadRequest(413, f"The body must have at most {self.bytes_max} bytes.")
        return body

    def parse_body(self, content_type: bytes, body: bytes) -> GraphQLRequest:
        """Parses the body of a POST request."""
        _check_content_type(content_type)
        parameters = _parse_json(body, "The body")
        if not isinstance(parameters, dict):
            raise BadRequest(400, "The body must be one JSON object. Batches are not supported.")
        return self.parse(parameters)

    def parse(self, parameters: Mapping[str, Any]) -> GraphQLRequest:
        """Parses the parameters of GraphQL over HTTP."""
        query, name = parameters.get("query"), parameters.get("operationName")
        variables, extensions = parameters.get("variables"), parameters.get("extensions")
        if name is not None and not isinstance(name, str):
            raise BadRequest(400, "`operationName` must be a string.")
        if not isinstance(variables, dict | None):
            raise BadRequest(400, "`variables` must be a JSON object.")
        if not isinstance(extensions, dict | None):
            raise BadRequest(400, "`extensions` must be a JSON object.")
        if variables and _has_more_values(variables, self.values_max):
            raise BadRequest(400, f"`variables` must have at most {self.values_max} values.")
        text = self._document(query, parameters.get("documentId"), extensions or {})
        return GraphQLRequest(text, name or None, variables, bool(extensions and extensions.get("cost") is True))

    def _document(self, query: Any, id: Any, extensions: Mapping[str, Any]) -> str:
        """Returns the text of the document; if the request has an id, the trusted document of that id."""
        persisted = extensions.get("persistedQuery")
        if id is None and isinstance(persisted, dict):
            id = persisted.get("sha256Hash")
        if not isinstance(query, str | None) or not isinstance(id, str | None) or (query is None and id is None):
            raise BadRequest(400, "`query` must be a string.")
        if self.documents is None:
            if query is None:
                # Apollo's clients recognise the next two messages.
                raise BadRequest(400, "PersistedQueryNotSupported", "PERSISTED_QUERY_NOT_SUPPORTED")
            return query
        text = self.documents.find_text(id, query)
        if text is None and id is not None:
            raise BadRequest(400, "PersistedQueryNotFound", "PERSISTED_QUERY_NOT_FOUND")
        if text is None:
            raise BadRequest(400, "Only trusted documents are allowed. Send a `documentId`.", "DOCUMENT_NOT_TRUSTED")
        return text


@lru_cache(CACHED_HEADERS_MAX)
def _check_content_type(content_type: bytes) -> None:
    """Raises BadRequest unless a body of that type is JSON in UTF-8."""
    media, _, charset = (text.strip().lower() for text in content_type.decode("latin-1").partition(";"))
    if media != JSON:
        raise BadRequest(415, f"The `content-type` must be {JSON}.")
    if charset and charset.replace('"', "") not in ("charset=utf-8", "charset=utf8"):
        raise BadRequest(415, "The charset must be UTF-8.")


def _query_parameters(request: Request) -> dict[str, Any]:
    """Returns the parameters of a GET request. One that a page of another site sends needs a CORS preflight."""
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and not any(name in request.headers for name in PREFLIGHT):
        raise BadRequest(403, f"A page of another site must send one of these headers: {', '.join(PREFLIGHT)}.")
    parameters: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if name in parameters:
            parameters[name] = _parse_json(parameters[name].encode(), f"`{name}`")
    return parameters


def _parse_json(text: bytes, subject: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequest(400, f"{subject} must be JSON.") from None


def _has_more_values(variables: dict[str, Any], values_max: int) -> bool:
    count, pending = 0, [variables.values()]
    while pending:
        values = pending.pop()
        count += len(values)
        if count > values_max:
            return True
        for value in values:
            if isinstance(value, dict):
                pending.append(value.values())
            elif isinstance(value, list):
                pending.append(value)  # type: ignore[arg-type]
    return False


@lru_cache(CACHED_HEADERS_MAX)
def negotiate_media_type(accept: bytes | None) -> str | None:
    """Returns the media type of the response to an `Accept` header; None if the gateway has none that the client accepts."""
    best, chosen = 0.0, None
    for part in (accept.decode("latin-1") if accept else "*/*").split(","):
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        media = {GRAPHQL: GRAPHQL, JSON: JSON, EVENT_STREAM: EVENT_STREAM, "application/*": JSON, "*/*": JSON}.get(name)
        weight = _weight(parameters)
        if media is not None and weight > best:
            best, chosen = weight, media
    return chosen


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
