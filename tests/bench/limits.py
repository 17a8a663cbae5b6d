"""What it costs the gateway to refuse a document that attacks by its size, and the dearest that it takes."""

import gc
import time
from statistics import median

from graphql import parse
from rich.table import Table

from gateway.execution.executor import Executor
from gateway.graph import schema
from tests.gateway.conftest import OPERATIONS
from tests.gateway.limits.test_limits import ATTACKS

ROUNDS = 25
GOAL_MS = 10.0

STAFF = "id name title active"
ACCEPTED = {
    "accepted: 25 fields side by side, each with 11 of one name": "{viewer{" + ("staff{" + "id " * 11 + "} ") * 25 + "}}",
    "accepted: 20 times the same, 5 levels": "{" + f"viewer{{staff{{{STAFF} brand{{id}}}}}} " * 20 + "}",
    "accepted: 25 fragments with the same fields": "{viewer{staff{"
    + " ".join(f"...f{number}" for number in range(25))
    + "}}}"
    + " ".join(f"fragment f{number} on Staff{{{STAFF} brand{{id name{{zh}}}} store{{id}}}}" for number in range(25)),
    "accepted: 24 fragments in a chain": "{viewer{staff{...f0}}}"
    + " ".join(f"fragment f{number} on Staff{{id name ...f{number + 1}}}" for number in range(24))
    + " fragment f24 on Staff{title}",
}


async def run(uri: str) -> Table:
    """CPU milliseconds of this process, from its own clock. Nothing is asked of any service."""
    executor = Executor(schema.build(), suggestions=False)
    gc.freeze()  # as the gateway does
    table = Table(title=f"limits: CPU of one document, {ROUNDS} rounds (goal: refused in under {GOAL_MS:g} ms)")
    for column in ("document", "characters", "outcome", "median ms", "worst ms"):
        table.add_column(column, justify="left" if column in ("document", "outcome") else "right")
    walk = {f"the walk: {path.stem}": path.read_text() for path in sorted(OPERATIONS.glob("*.graphql"))}
    dearest = max(walk, key=lambda name: _milliseconds(executor, walk[name])[0])
    for name, text in (ATTACKS | ACCEPTED | {dearest: walk[dearest]}).items():
        middle, worst = _milliseconds(executor, text)
        errors = executor.prepare(text).errors
        outcome = f"refused: {errors[0].message[:60]}" if errors else "accepted"
        table.add_row(name, f"{len(text):,}", outcome, f"{middle:.2f}", f"{worst:.2f}")
    documents = [parse(text) for text in walk.values()]
    started = time.process_time()
    for document in documents:
        executor.rule.check(document)
    each = (time.process_time() - started) * 1000 / len(documents)
    table.add_row(f"the rule alone, of the walk's {len(documents)} documents each", "", "", f"{each:.2f}", "")
    return table


def _milliseconds(executor: Executor, text: str) -> tuple[float, float]:
    took = []
    for _ in range(ROUNDS):
        executor.fresh.pop(text, None)
        started = time.process_time()
        executor.prepare(text)
        took.append((time.process_time() - started) * 1000)
    return median(took), max(took)
