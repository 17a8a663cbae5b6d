"""The schema, composed of the use cases in `gateway.graph`. `gateway/schema.graphql` is its committed copy.

python -m gateway.graph > gateway/schema.graphql
python -m gateway.graph --check
"""

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module, resources
from typing import Any

import strawberry
from strawberry.schema.config import StrawberryConfig

from gateway.graph import refusals
from gateway.schema import connections, nodes
from gateway.schema.registry import TYPES
from gateway.schema.scalars import SCALARS
from gateway.schema.types import NODE_TYPES, define_type

USE_CASES = (
    "common",
    "organization.chart",
    "organization.targets",
    "organization.tasks",
    "member.identity",
    "member.consent",
    "member.relation",
    "member.outreach",
    "commerce.catalog",
    "commerce.stock",
    "commerce.discovery",
    "commerce.orders",
    "district.places",
    "district.campaigns",
    "district.packs",
    "district.wallet",
    "viewer",
)
"""The modules of `gateway.graph` that declare types, in the order of their root fields."""


SHARED = (connections, refusals)
"""These modules declare types that belong to no use case; importing them registers the types."""


@cache
def build() -> strawberry.Schema:
    """Returns the schema of this process; raises TypeError or ValueError if a declaration does not fit its proto."""
    modules = [import_module(f"gateway.graph.{name}") for name in USE_CASES]
    query = _compose_root("Query", "Read operations.", (getattr(module, "Queries", None) for module in (nodes, *modules)))
    mutation = _compose_root("Mutation", "Write operations.", (getattr(module, "Mutations", None) for module in modules))
    subscription = _compose_root("Subscription", "Event streams.", (getattr(module, "Subscriptions", None) for module in modules))
    types = [TYPES[name] for name in dict.fromkeys(node_type.name for node_type in NODE_TYPES.values())]
    return strawberry.Schema(query, mutation, subscription, types=types, config=StrawberryConfig(scalar_map=SCALARS))


def _compose_root(name: str, description: str, parts: Iterable[type[Any] | None]) -> type[Any]:
    """Returns a root type with the fields of all parts; raises ValueError if two fields have one name."""
    members: dict[str, Any] = {"__annotations__": {}}
    for part in parts:
        for field, annotation in (part.__annotations__ if part is not None else {}).items():
            if field in members:
                raise ValueError(f"{name} has two fields called {field}. Rename one of them.")
            members["__annotations__"][field] = annotation
            members[field] = part.__dict__[field]
    root = type(name, (), members)
    define_type(root, None, description=description)
    return root


def print_schema() -> str:
    """Returns the schema in the schema definition language."""
    return build().as_str() + "\n"


def main() -> None:
    if "--check" not in sys.argv:
        sys.stdout.write(print_schema())
    elif (resources.files("gateway") / "schema.graphql").read_text() != print_schema():
        sys.exit("gateway/schema.graphql differs from the graph. Run: python -m gateway.graph > gateway/schema.graphql")
