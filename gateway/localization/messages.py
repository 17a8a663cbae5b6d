"""Messages of codes in the language of the client. English messages come with their errors; other languages have a table like `zh.toml`.

A code has one template, or several with the most detailed first. The first one is used whose placeholders all have a value:

    TOO_MANY_HOLDS = ["… {limit} … {free_at:time} …", "… {limit} …", "…"]
"""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from string import Formatter
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from gateway.localization.language import CHINESE, current_language

ZONE = ZoneInfo("Asia/Shanghai")
"""Chinese messages show times in this zone, and name it: the gateway does not know the zone of the client."""
NO_VALUES: Mapping[str, str] = {}


class Value(str):
    """A value of a placeholder. `{free_at:time}` formats an ISO 8601 time for a person; ValueError if it is none."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        if spec != "time":
            return super().__format__(spec)
        at = datetime.fromisoformat(self).astimezone(ZONE)
        return f"北京时间 {at.month}月{at.day}日 {at:%H:%M}"


class Template(Struct, frozen=True):
    """A message with the names of its placeholders."""

    text: str
    placeholders: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Parses a message; ValueError if its braces do not match."""
        return cls(text, frozenset(name for _, name, _, _ in Formatter().parse(text) if name))


class MessageTable:
    """The messages of one language, from a table with these sections:

    codes        the templates of each code
    violations   the templates of each kind of constraint that a value violates (metadata `violation`)
    noun_codes   the template of each code that begins with a noun: `NOT_FOUND` is that of `ORDER_NOT_FOUND`
    nouns        the words of the nouns; a code of a noun that is also in `codes` has the templates there
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        nouns, noun_codes = sections["nouns"], sections["noun_codes"]
        composed = {f"{noun}_{code}": text.replace("{noun}", word) for noun, word in nouns.items() for code, text in noun_codes.items()}
        self.codes = {code: _templates(value) for code, value in {**composed, **sections["codes"]}.items()}
        self.violations = {kind: _templates(value) for kind, value in sections["violations"].items()}

    def find(self, code: str, values: Mapping[str, str]) -> str | None:
        """Returns the message of a violation, else of a code, with these values; None if the table has none."""
        given = {name: Value(value) for name, value in values.items() if value}
        for template in (*self.violations.get(values.get("violation", ""), ()), *self.codes.get(code, ())):
            if template.placeholders <= given.keys():
                try:
                    return template.text.format_map(given)
                except ValueError:
                    continue
        return None


def _templates(value: str | list[str]) -> tuple[Template, ...]:
    return tuple(map(Template.parse, [value] if isinstance(value, str) else value))


TABLES = {CHINESE: MessageTable(tomllib.loads(Path(__file__).with_name("zh.toml").read_text(encoding="utf-8")))}


def localize(code: str, message: str, values: Mapping[str, str] = NO_VALUES) -> str:
    """Returns the message of a code in the language of the client; the English `message` if that language has none.

    The values are the metadata of a refusal. `{message}` is the English message.
    """
    table = TABLES.get(current_language())
    if table is None:
        return message
    return table.find(code, {**values, "message": message}) or message
