"""Proof: the engine and graphql-core give equal results for 24,000 random operations.

The services answer, refuse, abort, are late, omit items or stay silent.
"""

import asyncio
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from rich.table import Table

OPERATIONS, BY_HYPOTHESIS, PARTS = 24_000, 20_000, 40


async def run(uri: str) -> Table:
    """Runs the proof at full size, with a process per core."""
    start, loop = time.perf_counter(), asyncio.get_running_loop()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [loop.run_in_executor(pool, part, number) for number in range(PARTS)]
        counts = sum(await asyncio.gather(*parts), Counter[str]())
    table = Table(title=f"engine: {OPERATIONS:,} random operations, {BY_HYPOTHESIS:,} of them by hypothesis-graphql; equal results")
    for name in (*counts, "seconds"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:,}" for value in counts.values()), f"{time.perf_counter() - start:.0f}")
    return table


def part(number: int) -> Counter[str]:
    """Runs one part, in its own process."""
    from tests.gateway.engine.agreement import executors_agree
    from tests.gateway.engine.both import open_executors

    async def run_part() -> Counter[str]:
        async with open_executors() as opened:
            return await executors_agree(opened, OPERATIONS // PARTS, of_hypothesis=BY_HYPOTHESIS // PARTS, number=1000 + number)

    return asyncio.run(run_part())
