"""Where streams stood before anything happened: whoever may go on from there hears all that did."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from tests.services.worlds import requests
from tests.services.worlds.requests import Ids
from tests.services.worlds.rpcs import Suite, is_stream, rpcs
from tests.services.worlds.sides import OPERATOR

Begun = Mapping[tuple[str, bytes], str]
"""Rpc and request -> the cursor to ask `after`."""


async def begun(suite: Suite, sides: Iterable[Ids], at: datetime) -> Begun:
    """The cursors of all streams of what these sides' ids name, as the operator may have them."""
    sides, cursors = list(sides), {}
    for name in filter(is_stream, rpcs()):
        for path, noun in requests.id_fields(name).items():
            for id in {id for ids in sides for id in ids.get(noun, ())}:
                request = requests.request(name, {path: [id]}, at, "")
                if cursor := await suite.beginning(name, OPERATOR, request):
                    cursors[name, request.SerializeToString(deterministic=True)] = cursor
    return cursors
