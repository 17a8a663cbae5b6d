"""Source builder: the source text of a plan, with its functions, constants and unique names.

Of a client's text, only field names get into the source, as literals; the grammar restricts them to letters, digits and underscores. All
other values are constants with generated names.
"""

from collections.abc import Callable
from typing import Any


class InvalidValue(Exception):
    """Generated code found a value that does not fit its type; the interpreter reports the error."""


def raise_invalid() -> Any:
    """Raises `InvalidValue`; generated code calls it as `invalid()`."""
    raise InvalidValue


class SourceBuilder:
    """Builds one Python module, which is executed once."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {"invalid": raise_invalid}
        self.constant_names: dict[int, str] = {}
        self.enum_names: dict[str, str] = {}
        """The constant that maps the numbers of each enum to its names."""
        self.functions: list[str] = []
        self.dispatch_tables: list[tuple[dict[Any, Any], dict[Any, str]]] = []
        """Tables to fill after execution, with the names of the functions that belong in them."""
        self.count = 0

    def new_name(self, prefix: str) -> str:
        """Returns a unique name."""
        self.count += 1
        return f"{prefix}{self.count}"

    def constant(self, value: Any, prefix: str) -> str:
        """Adds a constant unless it exists; returns its name."""
        name = self.constant_names.get(id(value))
        if name is None:
            name = self.constant_names[id(value)] = self.new_name(prefix)
            self.constants[name] = value
        return name

    def add_function(self, prefix: str, parameters: str, body: str) -> str:
        """Adds a function; returns its name."""
        name = self.new_name(prefix)
        self.functions.append(f"def {name}({parameters}):\n{body}\n")
        return name

    @property
    def text(self) -> str:
        return "\n".join(self.functions)

    def execute(self) -> Callable[[str], Any]:
        """Executes the module; returns a function that finds a generated function by its name."""
        module = dict(self.constants)
        exec(compile(self.text, "<plan>", "exec"), module)
        for table, names in self.dispatch_tables:
            table.update({key: module[name] for key, name in names.items()})
        return module.__getitem__
