"""Start cursors of streams from before the seeding, from which a permitted caller receives all later changes."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from tests.services.worlds import requests
from tests.services.worlds.requests import Ids
from tests.services.worlds.rpcs import Suite, is_stream, rpcs
from tests.services.worlds.sides import OPERATOR

StartCursors = Mapping[tuple[str, bytes], str]
"""The cursor for `after`, by rpc and serialized request."""


async def find_start_cursors(suite: Suite, sides: Iterable[Ids], at: datetime) -> StartCursors:
    """Finds the cursors of all streams for the ids of these sides, as the operator."""
    sides, cursors = list(sides), {}
    for name in filter(is_stream, rpcs()):
        for path, noun in requests.id_fields(name).items():
            for id in {id for ids in sides for id in ids.get(noun, ())}:
                request = requests.build_request(name, {path: [id]}, at, "")
                if cursor := await suite.start_cursor(name, OPERATOR, request):
                    cursors[name, request.SerializeToString(deterministic=True)] = cursor
    return cursors
