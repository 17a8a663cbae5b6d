"""Test names: `test_<subject>_<condition>_<result>`, short enough to read in a report."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent
WORDS_MAX = 8


def test_every_test_name_has_few_words() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if len(node.name.split("_")) - 1 > WORDS_MAX
    ]
    assert not long, "\n".join([f"names of more than {WORDS_MAX} words after test_:", *long])
