"""GraphQL client of a story: sends the front ends' operations as a given person, with a token whose clock the story sets."""

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

from services.kit.values.opening_hours import local_day, moment
from services.local.errors import LocalError
from services.local.keys import Jwk
from services.local.token import bearer

OPERATIONS = Path(__file__).parents[3] / "tests" / "stories" / "operations"
HTTP_TIMEOUT_SECONDS = 30.0
WAIT_SECONDS_MAX, POLL_SECONDS = 30.0, 0.1
ZONE = "Asia/Shanghai"
FIRST_MINUTE = 19 * 60 + 10
"""The first step of a story happens at 19:10, in minutes since midnight."""
CLOCK_STEP_SECONDS = 10
"""Clock offsets are multiples of this, so that a person needs few tokens."""

Answer = dict[str, Any]


class Person(Struct, frozen=True):
    """A person who acts: `subject` of the token, and `name` in the timeline."""

    subject: str
    name: str


class StoryError(LocalError):
    """An answer differs from the expected one: the suite, or the data it holds, is not as the story needs it."""

    def __init__(self, message: str) -> None:
        super().__init__(f"The story stopped: {message}.", status=1)


def story_day(now: datetime) -> date:
    """Returns the next day whose story lies wholly in the future.

    Roles count from the moment they are granted. An earlier day would play before the staff had their roles.
    """
    today = local_day(now, ZONE)
    return today if now < moment(today, FIRST_MINUTE, ZONE) else today + timedelta(days=1)


class GatewayClient:
    """Client of the running gateway. `at` is the story's clock, on a day of its own."""

    def __init__(self, gateway: str, tokens: Jwk, console: Console, *, verbose: bool) -> None:
        self.http = httpx.AsyncClient(base_url=gateway, timeout=HTTP_TIMEOUT_SECONDS)
        self.tokens, self.console, self.verbose = tokens, console, verbose
        self.day = story_day(datetime.now(UTC))
        self._set_time(19 * 60 + 30)
        self.key = f"{time.time_ns():x}"
        self.bearers: dict[tuple[str, int], str] = {}

    def set_clock(self, hour: int, minute: int) -> None:
        """Sets the story's clock to a Shanghai time."""
        self._set_time(hour * 60 + minute)

    def _set_time(self, minute: int) -> None:
        self.at = moment(self.day, minute, ZONE)
        # The offset stays until the clock is set again, so that the time of a step never goes back.
        offset = round((self.at - datetime.now(UTC)).total_seconds())
        self.offset = offset - offset % CLOCK_STEP_SECONDS

    def _bearer(self, person: Person) -> str:
        key = person.subject, self.offset
        if key not in self.bearers:
            self.bearers[key] = bearer(self.tokens, person.subject, clock_offset=float(self.offset))
        return self.bearers[key]

    async def execute(self, person: Person, operation: str, **variables: Any) -> Answer:
        """Executes one of the front ends' operations and returns its data; raises `StoryError` if the gateway returns errors."""
        try:
            document = (OPERATIONS / f"{operation}.graphql").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise StoryError(
                f"{operation}.graphql is missing; run `quanyu story` from a clone of the repository, which holds the operations"
            ) from None
        try:
            response = await self.http.post(
                "/graphql",
                json={"query": document, "variables": variables},
                headers={"Authorization": f"Bearer {self._bearer(person)}", "Accept": "application/json"},
            )
            answered: Answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise StoryError(f"the gateway did not answer {operation} ({type(error).__name__}); `quanyu status` shows what runs") from None
        if self.verbose:
            # Without wrapping, so that the text can be copied.
            self.console.print(Text(f"\n{document.strip()}", "dim"), soft_wrap=True)
            self.console.print(JSON.from_data({"variables": variables, "answer": answered}), soft_wrap=True)
        if answered.get("errors"):
            raise StoryError(f"{operation} as {person.name} failed: {answered['errors'][0]['message']}")
        data: Answer = answered["data"]
        return data

    async def mutate(self, person: Person, operation: str, **given: Any) -> Answer:
        """Executes a mutation and returns its payload or its refusal, which has a `code`."""
        data = await self.execute(person, operation, input=given)
        (result,) = data.values()
        outcome: Answer = result
        return outcome

    async def mutate_or_fail(self, person: Person, operation: str, **given: Any) -> Answer:
        """Executes a mutation and returns its payload; raises `StoryError` if it is refused."""
        result = await self.mutate(person, operation, **given)
        if "code" in result:
            raise StoryError(f"{operation} as {person.name} is refused: {result['message']} ({result['code']})")
        return result

    async def wait_for(self, what: str, find: Callable[[], Any]) -> Any:
        """Polls `find` until it returns a value, since events reach other services a moment later; raises `StoryError` after 30 s."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while time.monotonic() < deadline:
            if found := await find():
                return found
            await asyncio.sleep(POLL_SECONDS)
        raise StoryError(f"{what} did not appear within {WAIT_SECONDS_MAX:.0f} s; `quanyu events` shows what waits")

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()
