"""Errors of a response: `extensions.code` and `id`, and the masking of unexpected exceptions.

An unexpected exception is masked: its error carries only an id, which the log has too.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import grpc
from graphql import GraphQLError

from gateway.localization.messages import localize
from gateway.schema.descriptions import to_camel_case
from services.kit import errors, ids
from services.kit.observability import telemetry
from services.kit.observability.logs import logger

operation_id: ContextVar[str] = ContextVar("operation_id", default="")
"""The id of the current operation in the log and the trace. Each error of its response carries it."""

INTERNAL = "INTERNAL"


def formatted(error: GraphQLError) -> dict[str, Any]:
    """An error of the answer: message, where it is, `extensions.code` and `id`; nothing else of what is behind it."""
    message, extensions = _explained(error)
    answer: dict[str, Any] = {"message": message, "extensions": identified(extensions)}
    if error.locations:
        answer["locations"] = [{"line": location.line, "column": location.column} for location in error.locations]
    if error.path:
        answer["path"] = error.path
    return answer


def _explained(error: GraphQLError) -> tuple[str, dict[str, Any]]:
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, errors.Refusal):
        return refusal_message(cause), {"code": cause.reason, "retryable": cause.retryable}
    if cause is None or isinstance(cause, GraphQLError):
        extensions = error.extensions or {}
        # graphql-core's own errors have no code and stay English.
        message = localize(extensions["code"], error.message) if "code" in extensions else error.message
        return message, {"code": "BAD_REQUEST"} | extensions
    message, extensions = masked(cause, path=".".join(str(part) for part in error.path or ()))
    return localize(INTERNAL, message), extensions


def identified(extensions: dict[str, Any]) -> dict[str, Any]:
    """The same, with the id of the operation they are of."""
    id = operation_id.get()
    return extensions | {"id": id} if id else extensions


def masked(cause: BaseException, *, path: str = "") -> tuple[str, dict[str, Any]]:
    """What is said of an exception nobody expected: an id, under which the log has the rest."""
    id = operation_id.get() or ids.new("bug")
    telemetry.BUGS.labels("gateway").inc()
    if isinstance(cause, grpc.aio.AioRpcError):
        # The service has logged it under its own id; what it says may be shown to those who read logs only.
        logger().error("service failed", id=id, path=path, code=cause.code().name, details=cause.details())
    else:
        logger().error("bug", id=id, path=path, exc_info=cause)
    return "internal error", {"code": INTERNAL, "id": id}


def request_error(refused: errors.Refusal) -> dict[str, Any]:
    """A refusal of a whole request."""
    return {"message": refusal_message(refused), "extensions": identified({"code": refused.reason, "retryable": refused.retryable})}


def refusal_message(refused: errors.Refusal) -> str:
    """Returns the message of a refusal in the language of the client."""
    metadata = refused.metadata
    return localize(
        refused.reason, refused.message, metadata | {"field": to_camel_case(metadata["field"])} if "field" in metadata else metadata
    )
