"""The schema: composed here, declared in `gateway.graph`. `schema.graphql` beside it is golden.

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
from gateway.schema.registry import NAMES
from gateway.schema.scalars import SCALARS
from gateway.schema.types import NODES
from gateway.schema.types import build as build_type

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


SHARED = (connections, refusals)
"""Declare types of the graph that no use case owns."""


@cache
def build() -> strawberry.Schema:
    """The one schema of this process. TypeError or ValueError when a declaration does not fit its proto."""
    modules = [import_module(f"gateway.graph.{name}") for name in USE_CASES]
    query = _compose("Query", "What can be asked.", (getattr(module, "Queries", None) for module in (nodes, *modules)))
    mutation = _compose("Mutation", "What can be done.", (getattr(module, "Mutations", None) for module in modules))
    subscription = _compose("Subscription", "What can be followed.", (getattr(module, "Subscriptions", None) for module in modules))
    types = [NAMES[node.name] for node in {node.name: node for node in NODES.values()}.values()]
    return strawberry.Schema(query, mutation, subscription, types=types, config=StrawberryConfig(scalar_map=SCALARS))


def _compose(name: str, description: str, parts: Iterable[type[Any] | None]) -> type[Any]:
    """One root of the graph out of the use cases' parts."""
    members: dict[str, Any] = {"__annotations__": {}}
    for part in parts:
        for field, annotation in (part.__annotations__ if part is not None else {}).items():
            if field in members:
                raise ValueError(f"{name} has two fields called {field}")
            members["__annotations__"][field] = annotation
            members[field] = part.__dict__[field]
    root = type(name, (), members)
    build_type(root, None, description=description)
    return root


def printed() -> str:
    """The schema in its definition language."""
    return build().as_str() + "\n"


def main() -> None:
    if "--check" not in sys.argv:
        sys.stdout.write(printed())
    elif (resources.files("gateway") / "schema.graphql").read_text() != printed():
        sys.exit("gateway/schema.graphql differs from the graph; run python -m gateway.graph > gateway/schema.graphql")
