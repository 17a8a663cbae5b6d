"""Errors of a response: `extensions.code` and `id`, and the masking of unexpected exceptions.

An unexpected exception is masked: its error carries only an id, which the log has too.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import grpc
from graphql import GraphQLError

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
        return cause.message, {"code": cause.reason, "retryable": cause.retryable}
    if cause is None or isinstance(cause, GraphQLError):
        return error.message, {"code": "BAD_REQUEST"} | (error.extensions or {})
    return masked(cause, path=".".join(str(part) for part in error.path or ()))


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
    return {"message": refused.message, "extensions": identified({"code": refused.reason, "retryable": refused.retryable})}
