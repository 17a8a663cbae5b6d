"""Who may act in a story and how: people with tokens and clocks of their own, who speak to the gateway in the front ends' operations."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct
from rich.console import Console
from rich.json import JSON
from rich.text import Text

from services.kit.calendar import day_of, moment
from services.local.errors import LocalError
from services.local.keys import Jwk
from services.local.token import bearer

OPERATIONS = Path(__file__).parents[3] / "tests" / "stories" / "operations"
WAIT_SECONDS_MAX, POLL_SECONDS = 30.0, 0.1
ZONE = "Asia/Shanghai"
FIRST_MINUTE = 19 * 60 + 10
"""When the first of what a story tells happens."""

Answer = dict[str, Any]


class Person(Struct, frozen=True):
    """Somebody who acts: who they are to the gateway and how the timeline calls them."""

    subject: str
    called: str


class Surprise(LocalError):
    """The story went another way than it is told: something in the suite, or in the data it is played on, is not as expected."""

    def __init__(self, message: str) -> None:
        super().__init__(f"the story does not go on: {message}", status=1)


def day_after(now: datetime) -> date:
    """The next day on which all of a story is still to come: who acts in it has the roles that were given by now, but had none before."""
    today = day_of(now, ZONE)
    return today if now < moment(today, FIRST_MINUTE, ZONE) else today + timedelta(days=1)


class Stage:
    """The running suite as a story sees it, on a day of its own."""

    def __init__(self, gateway: str, tokens: Jwk, console: Console, *, verbose: bool) -> None:
        self.http = httpx.AsyncClient(base_url=gateway, timeout=30.0)
        self.tokens, self.console, self.verbose = tokens, console, verbose
        self.day = day_after(datetime.now(UTC))
        self.at = moment(self.day, 19 * 60 + 30, ZONE)
        self.key = f"{time.time_ns():x}"
        self.bearers: dict[tuple[str, int], str] = {}

    def clock(self, hour: int, minute: int) -> None:
        """Sets the story's clock, Shanghai time."""
        self.at = moment(self.day, hour * 60 + minute, ZONE)

    def _bearer(self, person: Person) -> str:
        offset = round((self.at - datetime.now(UTC)).total_seconds())
        # A principal is signed per offset: a few seconds more or less shall not make another one.
        offset -= offset % 10
        if (person.subject, offset) not in self.bearers:
            self.bearers[person.subject, offset] = bearer(self.tokens, person.subject, clock_offset=float(offset))
        return self.bearers[person.subject, offset]

    async def ask(self, person: Person, operation: str, **variables: Any) -> Answer:
        """The data of one of the front ends' operations; `Surprise` when the gateway answers errors."""
        try:
            document = (OPERATIONS / f"{operation}.graphql").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise Surprise(
                f"the front ends' operations stand in the repository; run from a clone ({operation}.graphql is missing)"
            ) from None
        try:
            response = await self.http.post(
                "/graphql",
                json={"query": document, "variables": variables},
                headers={"Authorization": f"Bearer {self._bearer(person)}", "Accept": "application/json"},
            )
            answered: Answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Surprise(f"the gateway does not answer {operation}: {type(error).__name__}") from None
        if self.verbose:
            # Never wrapped: what is shown is to be copied.
            self.console.print(Text(f"\n{document.strip()}", "dim"), soft_wrap=True)
            self.console.print(JSON.from_data({"variables": variables, "answer": answered}), soft_wrap=True)
        if answered.get("errors"):
            raise Surprise(f"{operation} for {person.called}: {answered['errors'][0]['message']}")
        data: Answer = answered["data"]
        return data

    async def act(self, person: Person, operation: str, **given: Any) -> Answer:
        """The result of a mutation: its payload or a refusal, told apart by `__typename`."""
        data = await self.ask(person, operation, input=given)
        (result,) = data.values()
        outcome: Answer = result
        return outcome

    async def done(self, person: Person, operation: str, **given: Any) -> Answer:
        """The payload of a mutation that must succeed."""
        result = await self.act(person, operation, **given)
        if "code" in result:
            raise Surprise(f"{operation} for {person.called} is refused: {result['message']} ({result['code']})")
        return result

    async def until(self, what: str, look: Callable[[], Any]) -> Any:
        """The first answer of `look()` that is something: what one service tells reaches the others a moment later."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while time.monotonic() < deadline:
            if found := await look():
                return found
            await asyncio.sleep(POLL_SECONDS)
        raise Surprise(f"waited {WAIT_SECONDS_MAX:.0f} s for {what}")

    async def close(self) -> None:
        """Ends the connections."""
        await self.http.aclose()
