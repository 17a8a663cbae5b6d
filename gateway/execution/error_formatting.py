"""Refusals and errors as a client receives them.

Expected refusals of a mutation are members of its result union. Each implements `Refusal`; one table maps reasons to types, and the rpc
of the mutation declares its reasons. Everything else is a top-level error with `extensions.code`. An unexpected exception is masked: its
error carries only an id, which the log has too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc
import strawberry
from google.protobuf.descriptor import MethodDescriptor
from graphql import GraphQLError
from strawberry.types.field import StrawberryField

from gateway.schema.registry import annotation, declare
from gateway.schema.scalars import utc
from services.kit import errors, ids
from services.kit.observability import telemetry
from services.kit.observability.logs import logger
from services.kit.security import authorization

T = TypeVar("T")

operation_id: ContextVar[str] = ContextVar("operation_id", default="")
"""Under which the log and the trace have the current operation. Every error of its answer carries it."""

UNAUTHENTICATED = "UNAUTHENTICATED"
INTERNAL = "INTERNAL"
TOP_LEVEL = frozenset({UNAUTHENTICATED, "INVALID_PRINCIPAL"})
"""Reasons that concern the whole request and no single mutation."""
READ: Mapping[str, Callable[[str], Any]] = {"str": str, "Long": int, "DateTime": utc, "bool": lambda text: text == "True"}
"""How metadata of a refusal become fields of its type."""

BY_REASON: dict[str, type[Any]] = {}
BY_FAMILY: dict[type[errors.Refusal], type[Any]] = {}


@strawberry.interface(description="Why a mutation did not do what was asked. Nothing was changed by it.")
class Refusal:
    message: str = strawberry.field(description="What to do about it, for a person.")
    code: str = strawberry.field(description="The reason, for a program: like OUT_OF_STOCK.")
    retryable: bool = strawberry.field(description="Whether the same call, with the same key, may succeed later without any other change.")


declare("Refusal", Refusal)


def fact(description: str) -> Any:
    """A field of a refusal, read from the metadata of that name; null when the service did not say it."""
    return StrawberryField(default=None, description=description)


def refusal(*reasons: str, families: tuple[type[errors.Refusal], ...] = ()) -> Callable[[type[T]], type[T]]:
    """A refusal of the graph for these reasons, or for whole families of the kit."""

    def declared(cls: type[T]) -> type[T]:
        own = {name: str(text) for name, text in cls.__annotations__.items()}
        strawberry.type(cls, description=cls.__doc__)
        definition: Any = cls.__strawberry_definition__  # type: ignore[attr-defined]
        for field in definition.fields:
            if field.python_name in own:
                field.type_annotation = annotation(own[field.python_name])
        cls.__facts__ = {name: READ[text.removesuffix(" | None")] for name, text in own.items()}  # type: ignore[attr-defined]
        declare(cls.__name__, cls)
        BY_REASON.update(dict.fromkeys(reasons, cls))
        BY_FAMILY.update(dict.fromkeys(families, cls))
        return cls

    return declared


def type_of(refused: errors.Refusal) -> type[Any]:
    """The type of the graph that tells this refusal: its reason's, else its family's."""
    return BY_REASON.get(refused.reason) or BY_FAMILY[type(refused)]


def declared_by(method: MethodDescriptor) -> tuple[type[Any], ...]:
    """Returns the refusals with a type of their own whose reasons an rpc declares, in the order of its option."""
    return tuple(dict.fromkeys(BY_REASON[reason] for reason in authorization.reasons_of(method) if reason in BY_REASON))


def told(refused: errors.Refusal, members: tuple[type[Any], ...], written: Callable[[str], str]) -> Any:
    """The refusal as a member of a mutation's result: as the type of its reason where the result has it, else of its family.

    `written` tells how the client wrote a field of the request.
    """
    chosen = type_of(refused)
    if chosen not in members:
        chosen = BY_FAMILY[type(refused)]
    facts = {name: read(refused.metadata[name]) for name, read in chosen.__facts__.items() if refused.metadata.get(name)}
    if "field" in facts:
        facts["field"] = written(facts["field"])
    return chosen(message=refused.message, code=refused.reason, retryable=refused.retryable, **facts)


def general() -> tuple[type[Any], ...]:
    """The refusals that any mutation may answer with."""
    return tuple(dict.fromkeys(BY_FAMILY.values()))


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
