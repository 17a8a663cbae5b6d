"""Those who are turned away because there are too many of them: too many to tell the log of each."""

import asyncio

from services.kit import ids
from services.kit.logs import logger

TOGETHER_SECONDS = 1.0


class Crowd:
    """All who come within `TOGETHER_SECONDS` share an id, under which the log tells of them in one line: how many they were."""

    def __init__(self, event: str) -> None:
        self.event, self.id, self.many = event, "", 0

    def one(self) -> str:
        """Counts one more; the id."""
        if not self.many:
            self.id = ids.new("opn")
            asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._tell)
        self.many += 1
        return self.id

    def _tell(self) -> None:
        logger().warning(self.event, id=self.id, many=self.many)
        self.many = 0
