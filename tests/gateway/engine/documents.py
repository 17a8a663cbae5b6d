"""Random documents over the schema, with fragments, aliases, directives, variables and repeated fields.

`random_document` creates a plain document. `rewrite` adds the other constructs to any valid document, also of hypothesis-graphql.
"""

import json
import random
from typing import Any

from graphql import (
    FieldNode,
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    parse,
    print_ast,
    type_from_ast,
    value_from_ast_untyped,
)
from msgspec import Struct

from gateway.graph import schema
from tests.gateway.engine.services import random_id

CORE = schema.build()._schema
DEPTH_MAX, FIELDS_MAX = 5, 5
SCALAR_VALUES = {
    "DateTime": ("2024-05-01T00:00:00Z", "2018-11-20T21:40:00+08:00"),
    "Decimal": ("12.30", "0"),
    "String": ("white", "白", "2024-05-01", ""),
}
INVALID_VALUES = (None, "x", 3, [], {}, 1.5)


def random_value(type_: Any, name: str, chance: random.Random) -> Any:
    """Returns a value of an input type, as JSON."""
    if isinstance(type_, GraphQLNonNull):
        return random_value(type_.of_type, name, chance)
    if isinstance(type_, GraphQLList):
        return [random_value(type_.of_type, name, chance) for _ in range(chance.randrange(4))]
    if isinstance(type_, GraphQLEnumType):
        return chance.choice(list(type_.values))
    if isinstance(type_, GraphQLInputObjectType):
        needed = {key: field for key, field in type_.fields.items() if isinstance(field.type, GraphQLNonNull) or chance.random() < 0.4}
        return {key: random_value(field.type, key, chance) for key, field in needed.items()}
    if type_.name == "ID":
        return random_id(name if name.lower().endswith(("id", "ids")) and len(name) > 3 else "any_id", chance)
    if type_.name == "Boolean":
        return chance.random() < 0.5
    if type_.name in ("Int", "Long"):
        return chance.choice((1, 2, 5, 20)) if chance.random() < 0.9 else chance.choice((0, -1, 500))
    if type_.name == "Float":
        return chance.choice((116.45, 39.9, 0, 1))
    return chance.choice(SCALAR_VALUES[type_.name])


def literal(type_: Any, value: Any) -> str:
    """Returns a JSON value of the type as a GraphQL literal."""
    type_ = get_nullable_type(type_)
    if value is None:
        return "null"
    if isinstance(type_, GraphQLList):
        return "[" + ", ".join(literal(type_.of_type, each) for each in value) + "]"
    if isinstance(type_, GraphQLInputObjectType):
        return "{" + ", ".join(f"{key}: {literal(type_.fields[key].type, each)}" for key, each in value.items()) + "}"
    if isinstance(type_, GraphQLEnumType):
        return str(value)
    return json.dumps(value, ensure_ascii=False)  # strings and numbers are written alike in GraphQL


def variables_of(query: str, chance: random.Random) -> dict[str, Any]:
    """Returns values for the variables of a document's only operation."""
    (operation,) = (each for each in parse(query).definitions if isinstance(each, OperationDefinitionNode))
    values = {}
    for each in operation.variable_definitions or ():
        if each.type.kind == "non_null_type" or chance.random() < 0.7:
            values[each.variable.name.value] = random_value(type_from_ast(CORE, each.type), each.variable.name.value, chance)
    return values


def random_document(chance: random.Random, kind: OperationType) -> str:
    """Returns a plain document: fields with literal arguments; a subscription has one root field."""
    fields_max = 1 if kind is OperationType.SUBSCRIPTION else FIELDS_MAX
    return f"{kind.value} {_random_selection(CORE.get_root_type(kind), chance, DEPTH_MAX, fields_max)}"


def _random_selection(type_: Any, chance: random.Random, depth: int, fields_max: int = FIELDS_MAX) -> str:
    parts = []
    if is_abstract_type(type_):
        possible = list(CORE.get_possible_types(type_))
        for each in chance.sample(possible, min(len(possible), chance.randrange(1, 4))):
            parts.append(f"... on {each.name} {_random_selection(each, chance, depth - 1)}")
        parts.extend(["__typename"] * (chance.random() < 0.5))
    fields = getattr(type_, "fields", {})
    chosen = chance.sample(list(fields), min(len(fields), chance.randint(1, fields_max)))
    for name in chosen:
        field = fields[name]
        named = get_named_type(field.type)
        if is_composite_type(named) and depth <= 0:
            continue
        given = [
            f"{key}: {literal(arg.type, random_value(arg.type, key, chance))}"
            for key, arg in field.args.items()
            if isinstance(arg.type, GraphQLNonNull) or chance.random() < 0.4
        ]
        below = _random_selection(named, chance, depth - 1) if is_composite_type(named) else ""
        parts.append(f"{name}{'(' + ', '.join(given) + ')' if given else ''} {below}")
    return "{ " + " ".join(parts or ["__typename"]) + " }"


class Request(Struct):
    """A document with its variables and the operation to run."""

    query: str
    variables: dict[str, Any]
    operation_name: str | None


def rewrite(query: str, chance: random.Random) -> Request:
    """Returns the document with variables, directives, fragments, aliases and repeated fields."""
    operations = [each for each in parse(query).definitions if isinstance(each, OperationDefinitionNode)]
    return _Rewriter(chance).request(operations[0])


class _Rewriter:
    def __init__(self, chance: random.Random) -> None:
        self.chance, self.count = chance, 0
        self.declared: list[str] = []
        self.values: dict[str, Any] = {}
        self.conditions: list[str] = []
        self.fragments: list[str] = []
        self.written: dict[int, list[str]] = {}
        """The text of each field: a repeated field must be written equally, or the two could not be merged."""

    def request(self, operation: OperationDefinitionNode) -> Request:
        """Returns the rewritten operation as a request."""
        kind = operation.operation.value
        root = CORE.get_root_type(operation.operation)
        body = self.selections(root, operation.selection_set.selections, here=root)
        declared = f"({', '.join(self.declared)})" if self.declared else ""
        text = "\n".join([f"{kind} A{declared} {body}", *self.fragments])
        if self.chance.random() < 0.1:
            return Request(text + "\nquery B { __typename }", self.values, self.chance.choice(("A", "B", None)))
        return Request(text, self.values, self.chance.choice(("A", None)))

    def new_name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def selections(self, type_: Any, selections: Any, here: Any) -> str:
        parts = []
        for each in selections:
            if isinstance(each, FieldNode):
                parts.extend(self.field(type_, each))
            elif isinstance(each, InlineFragmentNode):
                named = CORE.get_type(each.type_condition.name.value) if each.type_condition else type_
                parts.append(self.wrap(named, self.selections(named, each.selection_set.selections, named)))
        if self.chance.random() < 0.15:
            self.chance.shuffle(parts)
        if len(parts) > 1 and self.chance.random() < 0.2:
            cut = self.chance.randrange(1, len(parts))
            around = self.chance.choice([type_, *getattr(type_, "interfaces", ()), None])
            if around is type_ or around is None:
                parts = [*parts[:cut], self.wrap(around, "{ " + " ".join(parts[cut:]) + " }")]
        return "{ " + " ".join(parts or ["__typename"]) + " }"

    def wrap(self, type_: Any, body: str) -> str:
        """Returns a fragment, inline or named; a named one is sometimes spread twice."""
        if type_ is None:
            return f"...{self.directive()} {body}"
        if self.chance.random() < 0.5:
            return f"... on {type_.name}{self.directive()} {body}"
        name = self.new_name("F")
        self.fragments.append(f"fragment {name} on {type_.name} {body}")
        return " ".join(f"...{name}{self.directive()}" for _ in range(1 + (self.chance.random() < 0.2)))

    def directive(self) -> str:
        if self.chance.random() > 0.12:
            return ""
        kind, literal_ = self.chance.choice(("skip", "include")), self.chance.choice(("true", "false"))
        if self.chance.random() < 0.3:
            return f" @{kind}(if: {literal_})"
        if len(self.conditions) < 3 or self.chance.random() < 0.05:
            name = self.new_name("c")
            self.conditions.append(name)
            if self.chance.random() < 0.3:
                self.declared.append(f"${name}: Boolean = {literal_}")
                if self.chance.random() < 0.1:
                    self.values[name] = None
            else:
                self.declared.append(f"${name}: Boolean!")
                self.values[name] = self.chance.random() < 0.5
            return f" @{kind}(if: ${name})"
        return f" @{kind}(if: ${self.chance.choice(self.conditions)})"

    def field(self, type_: Any, node: FieldNode) -> list[str]:
        name = node.name.value
        if name == "__typename":
            return [name]
        written = self.written.get(id(node))
        if written is None:
            written = self.written[id(node)] = self.write_field(type_, node)
        return written

    def write_field(self, type_: Any, node: FieldNode) -> list[str]:
        name = node.name.value
        field = type_.fields[name]
        given = []
        for each in node.arguments or ():
            arg = field.args[each.name.value]
            value = value_from_ast_untyped(each.value)
            if get_named_type(arg.type).name == "ID" and self.chance.random() < 0.8:
                value = random_value(arg.type, each.name.value, self.chance)
            given.append(f"{each.name.value}: {self.argument(arg.type, each.name.value, value, print_ast(each.value))}")
        own = f"{node.alias.value}: " if node.alias else ""
        alias = f"{self.new_name('a')}: " if self.chance.random() < 0.15 else own
        head = f"{alias}{name}{'(' + ', '.join(given) + ')' if given else ''}"
        if node.selection_set is None:
            return [f"{head}{self.directive()}"] * (1 + (self.chance.random() < 0.05))
        named = get_named_type(field.type)
        found = list(node.selection_set.selections)
        if len(found) > 1 and self.chance.random() < 0.15:
            cut = self.chance.randrange(1, len(found))
            halves = [found[:cut], found[cut - 1 :]]
            return [f"{head}{self.directive()} {self.selections(named, half, named)}" for half in halves]
        return [f"{head}{self.directive()} {self.selections(named, found, named)}"]

    def argument(self, type_: Any, name: str, value: Any, text: str) -> str:
        if self.chance.random() < 0.5:
            return literal(type_, value) if get_named_type(type_).name == "ID" else text
        variable = self.new_name("v")
        declared = str(type_)
        if self.chance.random() < 0.1 and isinstance(type_, GraphQLNonNull):
            declared = f"{type_.of_type} = {literal(type_, value)}"
        elif not isinstance(type_, GraphQLNonNull) and self.chance.random() < 0.2:
            declared = f"{type_}!"
        self.declared.append(f"${variable}: {declared}")
        luck = self.chance.random()
        if luck < 0.96:
            self.values[variable] = value
        elif luck < 0.97:
            self.values[variable] = self.chance.choice(INVALID_VALUES)
        return f"${variable}"
