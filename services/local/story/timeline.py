"""The timeline: who, what, why, refusals included."""

from datetime import datetime
from zoneinfo import ZoneInfo

from msgspec import Struct
from rich.console import Console
from rich.text import Text

from services.local.story.stage import ZONE


class Moment(Struct, frozen=True):
    """One line: when, who, what happened, why, and whether it was refused."""

    at: datetime
    who: str
    what: str
    why: str
    refused: bool


class Timeline:
    """Prints each moment as it happens and keeps them all."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.moments: list[Moment] = []

    def remark(self, text: str) -> None:
        """What is said about the story."""
        self.console.print(Text(text, "dim"), soft_wrap=True)

    def chapter(self, title: str) -> None:
        """A heading."""
        self.console.print(f"\n[bold]{title}[/]")

    def tell(self, at: datetime, who: str, what: str, why: str = "", *, refused: bool = False) -> None:
        """One moment."""
        self.moments.append(Moment(at, who, what, why, refused))
        line = Text.assemble(
            (f"  {at.astimezone(ZoneInfo(ZONE)):%H:%M}  ", "cyan"),
            (f"{who}  ", "bold"),
            ("✗ " if refused else "", "bold red"),
            (what, "red" if refused else ""),
            (f"  — {why}" if why else "", "dim"),
        )
        self.console.print(line, soft_wrap=True)
