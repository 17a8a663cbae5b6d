"""The source text of a plan as it is written: functions, the constants they use, and names that nobody has twice.

Nothing that a client wrote goes into the text but names of fields, which the grammar keeps to letters, digits and underscores, as
literals; everything else is a constant under a name of our own.
"""

from collections.abc import Callable
from typing import Any


class Absent(Exception):
    """A value is not what its type says; `careful` finds out what to say of it."""


def absent() -> Any:
    """Leaves the quick path."""
    raise Absent


class Source:
    """One Python module, to be executed once."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {"absent": absent}
        self.named: dict[int, str] = {}
        self.enums: dict[str, str] = {}
        """The constant that holds each enum's names by their numbers."""
        self.functions: list[str] = []
        self.linked: list[tuple[dict[Any, Any], dict[Any, str]]] = []
        """Tables to fill, and the names of the functions that belong in them."""
        self.count = 0

    def name(self, prefix: str) -> str:
        """A name that nothing else has."""
        self.count += 1
        return f"{prefix}{self.count}"

    def constant(self, value: Any, prefix: str) -> str:
        """The name of a constant."""
        name = self.named.get(id(value))
        if name is None:
            name = self.named[id(value)] = self.name(prefix)
            self.constants[name] = value
        return name

    def function(self, prefix: str, parameters: str, body: str) -> str:
        """Adds a function; its name."""
        name = self.name(prefix)
        self.functions.append(f"def {name}({parameters}):\n{body}\n")
        return name

    @property
    def text(self) -> str:
        return "\n".join(self.functions)

    def run(self) -> Callable[[str], Any]:
        """Executes the module; from the name of a function to the function."""
        module = dict(self.constants)
        exec(compile(self.text, "<plan>", "exec"), module)
        for table, names in self.linked:
            table.update({key: module[name] for key, name in names.items()})
        return module.__getitem__
