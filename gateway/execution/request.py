"""GraphQL request (https://graphql.github.io/graphql-over-http), and the error of a malformed one."""

from typing import Any

from msgspec import Struct

BAD_REQUEST = "BAD_REQUEST"


class BadRequest(Exception):
    """The HTTP request is not a GraphQL request; the response has this status."""

    def __init__(self, status: int, message: str, code: str = BAD_REQUEST) -> None:
        self.status, self.message, self.code = status, message, code
        super().__init__(message)


class GraphQLRequest(Struct, frozen=True):
    """A GraphQL request. If `wants_cost`, the response contains its cost in `extensions.cost`."""

    query: str
    operation_name: str | None = None
    variables: dict[str, Any] | None = None
    wants_cost: bool = False
