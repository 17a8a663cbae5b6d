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
INTERNAL_MESSAGE = "An internal error occurred. Report its id."


def format_error(error: GraphQLError) -> dict[str, Any]:
    """Returns the JSON of an error: message, locations, path, `extensions.code` and `id`. Details of its cause are left out."""
    message, extensions = _explain(error)
    formatted: dict[str, Any] = {"message": message, "extensions": add_operation_id(extensions)}
    if error.locations:
        formatted["locations"] = [{"line": location.line, "column": location.column} for location in error.locations]
    if error.path:
        formatted["path"] = error.path
    return formatted


def _explain(error: GraphQLError) -> tuple[str, dict[str, Any]]:
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
    message, extensions = mask_unexpected(cause, path=".".join(str(part) for part in error.path or ()))
    return localize(INTERNAL, message), extensions


def add_operation_id(extensions: dict[str, Any]) -> dict[str, Any]:
    """Returns the extensions of an error with the id of the current operation, if there is one."""
    id = operation_id.get()
    return extensions | {"id": id} if id else extensions


def mask_unexpected(cause: BaseException, *, path: str = "") -> tuple[str, dict[str, Any]]:
    """Logs an unexpected exception. Returns the message and the extensions of its error, which contain only the id of the log line."""
    id = operation_id.get() or ids.new("bug")
    telemetry.BUGS.labels("gateway").inc()
    if isinstance(cause, grpc.aio.AioRpcError):
        # The service has logged the failure under its own id, which the details contain.
        logger().error("service failed", id=id, path=path, code=cause.code().name, details=cause.details())
    else:
        logger().error("bug", id=id, path=path, exc_info=cause)
    return INTERNAL_MESSAGE, {"code": INTERNAL, "id": id}


def format_refusal(refusal: errors.Refusal) -> dict[str, Any]:
    """Returns the JSON of an error that refuses a whole request."""
    return {"message": refusal_message(refusal), "extensions": add_operation_id({"code": refusal.reason, "retryable": refusal.retryable})}


def refusal_message(refusal: errors.Refusal) -> str:
    """Returns the message of a refusal in the language of the client."""
    metadata = refusal.metadata
    if "field" in metadata:
        metadata = metadata | {"field": to_camel_case(metadata["field"])}
    return localize(refusal.reason, refusal.message, metadata)
