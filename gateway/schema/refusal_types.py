"""Refusal types: the members of a mutation's result that report expected refusals, with the interface `Refusal`.

`graph/refusals.py` maps reasons and families to types; the rpc of a mutation declares its reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import strawberry
from google.protobuf.descriptor import MethodDescriptor
from strawberry.types.field import StrawberryField

from gateway.localization.messages import localize
from gateway.schema.registry import register, strawberry_annotation
from gateway.schema.scalars import to_utc
from services.kit import errors
from services.kit.security import authorization

T = TypeVar("T")

UNAUTHENTICATED = "UNAUTHENTICATED"
TOP_LEVEL = frozenset({UNAUTHENTICATED, "INVALID_PRINCIPAL"})
"""Refusals with these reasons are top-level errors: they concern the whole request, not one mutation."""
CONVERTERS: Mapping[str, Callable[[str], Any]] = {"str": str, "Long": int, "DateTime": to_utc, "bool": lambda text: text == "True"}
"""Converts the metadata of a refusal into a field of the declared type."""

BY_REASON: dict[str, type[Any]] = {}
BY_FAMILY: dict[type[errors.Refusal], type[Any]] = {}


@strawberry.interface(description="The reason why a mutation was refused. A refused mutation changes nothing.")
class Refusal:
    message: str = strawberry.field(description="What is wrong and what to do about it, in English.")
    code: str = strawberry.field(description="The reason as a constant, such as OUT_OF_STOCK.")
    retryable: bool = strawberry.field(description="True if the same mutation, with the same idempotencyKey, may succeed later.")


register("Refusal", Refusal)


def refusal_field(description: str) -> Any:
    """Declares a field of a refusal, read from the metadata of that name; null if the service did not send it."""
    return StrawberryField(default=None, description=description)


def refusal_type(*reasons: str, families: tuple[type[errors.Refusal], ...] = ()) -> Callable[[type[T]], type[T]]:
    """Declares the type of refusals with these reasons, or of whole families. The class docstring is its description."""

    def decorate(cls: type[T]) -> type[T]:
        annotations = {name: str(annotation) for name, annotation in cls.__annotations__.items()}
        strawberry.type(cls, description=cls.__doc__)
        definition: Any = cls.__strawberry_definition__  # type: ignore[attr-defined]
        for field in definition.fields:
            if field.python_name in annotations:
                field.type_annotation = strawberry_annotation(annotations[field.python_name])
        cls.__converters__ = {  # type: ignore[attr-defined]
            name: CONVERTERS[annotation.removesuffix(" | None")] for name, annotation in annotations.items()
        }
        register(cls.__name__, cls)
        BY_REASON.update(dict.fromkeys(reasons, cls))
        BY_FAMILY.update(dict.fromkeys(families, cls))
        return cls

    return decorate


def refusal_type_of(refusal: errors.Refusal) -> type[Any]:
    """Returns the type of the refusal's reason, else of its family."""
    return BY_REASON.get(refusal.reason) or BY_FAMILY[type(refusal)]


def declared_refusal_types(method: MethodDescriptor) -> tuple[type[Any], ...]:
    """Returns the types of the reasons that an rpc declares, in the order of its option; reasons without a type are left out."""
    return tuple(dict.fromkeys(BY_REASON[reason] for reason in authorization.reasons_of(method) if reason in BY_REASON))


def family_refusal_types() -> tuple[type[Any], ...]:
    """Returns the types of the families, which every mutation may return."""
    return tuple(dict.fromkeys(BY_FAMILY.values()))


def build_refusal(refusal: errors.Refusal, members: tuple[type[Any], ...], client_path: Callable[[str], str]) -> Any:
    """Returns the refusal as a member of a mutation's result: of its reason's type if that is a member, else of its family's.

    `client_path` converts the path of a field in the request to the path in the client's input.
    """
    chosen = refusal_type_of(refusal)
    if chosen not in members:
        chosen = BY_FAMILY[type(refusal)]
    metadata = dict(refusal.metadata)
    if metadata.get("field"):
        metadata["field"] = client_path(metadata["field"])
    fields = {name: convert(metadata[name]) for name, convert in chosen.__converters__.items() if metadata.get(name)}
    return chosen(message=localize(refusal.reason, refusal.message, metadata), code=refusal.reason, retryable=refusal.retryable, **fields)
