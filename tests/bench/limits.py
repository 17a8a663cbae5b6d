"""Cost of limits: CPU of the gateway to refuse an oversized document, and to accept the most expensive ones."""

import gc
import time
from statistics import median

from graphql import parse
from rich.table import Table

from gateway.execution.executor import Executor
from gateway.graph import schema
from tests.gateway.conftest import OPERATIONS
from tests.gateway.limits.test_document_limits import ATTACKS

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
    """Measures CPU milliseconds of this process. No service is called."""
    executor = Executor(schema.build(), suggestions=False)
    gc.freeze()  # as the gateway does
    table = Table(title=f"limits: CPU of one document, {ROUNDS} rounds (goal: refused in under {GOAL_MS:g} ms)")
    for column in ("document", "characters", "outcome", "median ms", "worst ms"):
        table.add_column(column, justify="left" if column in ("document", "outcome") else "right")
    operations = {f"front end: {path.stem}": path.read_text() for path in sorted(OPERATIONS.glob("*.graphql"))}
    slowest = max(operations, key=lambda name: _milliseconds(executor, operations[name])[0])
    for name, text in (ATTACKS | ACCEPTED | {slowest: operations[slowest]}).items():
        middle, worst = _milliseconds(executor, text)
        errors = executor.prepare(text).errors
        outcome = f"refused: {errors[0].message[:60]}" if errors else "accepted"
        table.add_row(name, f"{len(text):,}", outcome, f"{middle:.2f}", f"{worst:.2f}")
    documents = [parse(text) for text in operations.values()]
    started = time.process_time()
    for document in documents:
        executor.rule.check(document)
    each = (time.process_time() - started) * 1000 / len(documents)
    table.add_row(f"the rule alone, mean of {len(documents)} front-end documents", "", "", f"{each:.2f}", "")
    return table


def _milliseconds(executor: Executor, text: str) -> tuple[float, float]:
    samples = []
    for _ in range(ROUNDS):
        executor.documents.fresh.pop(text, None)
        started = time.process_time()
        executor.prepare(text)
        samples.append((time.process_time() - started) * 1000)
    return median(samples), max(samples)
