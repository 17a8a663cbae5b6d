"""Coalesced log of frequent refusals: at most one line per second, with their number."""

import asyncio

from services.kit import ids
from services.kit.observability.logs import logger

WINDOW_SECONDS = 1.0
"""Occurrences within this time share one line."""


class CoalescedLog:
    """Counts the occurrences of one event. Those within `WINDOW_SECONDS` share an id and one log line, which gives their number."""

    def __init__(self, event: str) -> None:
        self.event, self.id, self.count = event, "", 0

    def add(self) -> str:
        """Counts one occurrence and returns its id."""
        if not self.count:
            self.id = ids.new("opn")
            asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._log)
        self.count += 1
        return self.id

    def _log(self) -> None:
        logger().warning(self.event, id=self.id, count=self.count)
        self.count = 0
