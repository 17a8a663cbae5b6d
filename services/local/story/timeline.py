"""Timeline of a story: one entry per step, printed as it happens and kept for tests."""

from datetime import datetime
from zoneinfo import ZoneInfo

from msgspec import Struct
from rich.console import Console
from rich.text import Text

from services.local.story.gateway_client import ZONE

INDENT = " " * 9


class Entry(Struct, frozen=True):
    """One step: the time, the actor, the action, the mechanism behind it, and the outcome. A detail belongs to the entry before it."""

    at: datetime
    actor: str
    action: str
    reason: str
    refused: bool
    is_detail: bool


class Timeline:
    """Prints each entry and keeps all of them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.entries: list[Entry] = []

    def note(self, text: str) -> None:
        """Prints a remark about the story."""
        self.console.print(Text(text, "dim"), soft_wrap=True)

    def heading(self, title: str) -> None:
        """Prints the title of a chapter."""
        self.console.print(f"\n[bold]{title}[/]")

    def add(self, at: datetime, actor: str, action: str, reason: str = "", *, refused: bool = False, is_detail: bool = False) -> None:
        """Adds and prints one entry."""
        self.entries.append(Entry(at, actor, action, reason, refused, is_detail))
        mark = ("✗ ", "bold red") if refused else ("· ", "dim") if is_detail else ("", "")
        style = "red" if refused else ""
        if is_detail:
            line = Text.assemble(INDENT, mark, f"{actor}: ", (action, style), (f" {reason}" if reason else "", "dim"))
        else:
            clock = f"  {at.astimezone(ZoneInfo(ZONE)):%H:%M}  "
            line = Text.assemble(
                (clock, "cyan"), mark, (actor, "bold"), (f" {action}", style), (f"\n{INDENT}{reason}" if reason else "", "dim")
            )
        self.console.print(line, soft_wrap=True)
