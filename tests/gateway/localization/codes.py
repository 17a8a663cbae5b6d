"""The codes that the source raises, with the metadata that each is raised with somewhere, found in its syntax trees."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.kit import errors

ROOT = Path(__file__).parents[3]
CODE_ARGUMENTS = {kind.__name__: 0 for kind in errors.FAMILY} | {"BadRequest": 2}
"""The position of the code in the arguments of each exception."""


def raised_codes() -> Mapping[str, set[str]]:
    """Returns the names of the metadata of each code."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for folder in ("services", "gateway") for path in (ROOT / folder).rglob("*.py")]
    shared = {name: code for tree in trees for name, code in _constants(tree)}
    found: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        constants = shared | dict(_constants(tree))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    for code, metadata in _codes(node, function, constants):
                        found[code] |= metadata
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from ((target.id, node.value.value) for target in node.targets if isinstance(target, ast.Name))


def _codes(node: ast.AST, function: ast.AST, constants: Mapping[str, str]) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "code" and (code := _code(value, constants)):
                yield code, set()
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name == "ConcurrencyLimiter" and isinstance(node.args[2], ast.Constant):
            yield f"TOO_MANY_{str(node.args[2].value).upper()}", set()
        position = CODE_ARGUMENTS.get(name)
        if position is not None and len(node.args) > position and (code := _code(node.args[position], constants)):
            yield code, set(_metadata(node, function))


def _code(node: ast.AST, constants: Mapping[str, str]) -> str:
    """Returns the code that an expression names: `"CODE"`, `CODE` or `Reason.CODE`; empty if it names none."""
    if isinstance(node, ast.Constant):
        code = str(node.value)
    elif isinstance(node, ast.Name):
        code = constants.get(node.id, "")
    else:
        code = node.attr if isinstance(node, ast.Attribute) else ""
    return code if code.isupper() else ""


def _metadata(call: ast.Call, function: ast.AST) -> Iterator[str]:
    """Yields the keywords of a call; for `**values`, the keys of all dictionaries in the function."""
    yield from (keyword.arg for keyword in call.keywords if keyword.arg)
    if any(keyword.arg is None for keyword in call.keywords):
        for node in ast.walk(function):
            if isinstance(node, ast.Dict):
                yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))
