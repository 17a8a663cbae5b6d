"""Types of the graph for refusals: the interface `Refusal`, and which reasons or families each type stands for.

Expected refusals of a mutation are members of its result union. One table maps reasons to types, and the rpc of the mutation declares
its reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import strawberry
from google.protobuf.descriptor import MethodDescriptor
from strawberry.types.field import StrawberryField

from gateway.schema.registry import annotation, declare
from gateway.schema.scalars import utc
from services.kit import errors
from services.kit.security import authorization

T = TypeVar("T")

UNAUTHENTICATED = "UNAUTHENTICATED"
TOP_LEVEL = frozenset({UNAUTHENTICATED, "INVALID_PRINCIPAL"})
"""Refusals with these reasons are top-level errors: they concern the whole request, not one mutation."""
READ: Mapping[str, Callable[[str], Any]] = {"str": str, "Long": int, "DateTime": utc, "bool": lambda text: text == "True"}
"""Converts the metadata of a refusal into a field of the declared type."""

BY_REASON: dict[str, type[Any]] = {}
BY_FAMILY: dict[type[errors.Refusal], type[Any]] = {}


@strawberry.interface(description="Why a mutation did not do what was asked. Nothing was changed by it.")
class Refusal:
    message: str = strawberry.field(description="What to do about it, for a person.")
    code: str = strawberry.field(description="The reason, for a program: like OUT_OF_STOCK.")
    retryable: bool = strawberry.field(description="Whether the same call, with the same key, may succeed later without any other change.")


declare("Refusal", Refusal)


def refusal_field(description: str) -> Any:
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
        cls.__metadata_fields__ = {name: READ[text.removesuffix(" | None")] for name, text in own.items()}  # type: ignore[attr-defined]
        declare(cls.__name__, cls)
        BY_REASON.update(dict.fromkeys(reasons, cls))
        BY_FAMILY.update(dict.fromkeys(families, cls))
        return cls

    return declared


def type_of(refused: errors.Refusal) -> type[Any]:
    """The type of the graph that tells this refusal: its reason's, else its family's."""
    return BY_REASON.get(refused.reason) or BY_FAMILY[type(refused)]


def types_declared_by(method: MethodDescriptor) -> tuple[type[Any], ...]:
    """Returns the refusals with a type of their own whose reasons an rpc declares, in the order of its option."""
    return tuple(dict.fromkeys(BY_REASON[reason] for reason in authorization.reasons_of(method) if reason in BY_REASON))


def as_refusal_type(refused: errors.Refusal, members: tuple[type[Any], ...], written: Callable[[str], str]) -> Any:
    """The refusal as a member of a mutation's result: as the type of its reason where the result has it, else of its family.

    `written` tells how the client wrote a field of the request.
    """
    chosen = type_of(refused)
    if chosen not in members:
        chosen = BY_FAMILY[type(refused)]
    events = {name: read(refused.metadata[name]) for name, read in chosen.__metadata_fields__.items() if refused.metadata.get(name)}
    if "field" in events:
        events["field"] = written(events["field"])
    return chosen(message=refused.message, code=refused.reason, retryable=refused.retryable, **events)


def family_types() -> tuple[type[Any], ...]:
    """The refusals that any mutation may answer with."""
    return tuple(dict.fromkeys(BY_FAMILY.values()))
