"""24,000 random operations, before services that answer, refuse, break off, are late, leave out or say nothing: one answer by both."""

import asyncio
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from rich.table import Table

OPERATIONS, OF_HYPOTHESIS, PARTS = 24_000, 20_000, 40


async def run(uri: str) -> Table:
    """Full size, in as many processes as there are cores."""
    start, loop = time.perf_counter(), asyncio.get_running_loop()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [loop.run_in_executor(pool, part, number) for number in range(PARTS)]
        seen = sum(await asyncio.gather(*parts), Counter[str]())
    table = Table(title=f"engine: {OPERATIONS:,} random operations, {OF_HYPOTHESIS:,} of them of hypothesis-graphql; one answer by both")
    for name in (*seen, "seconds"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:,}" for value in seen.values()), f"{time.perf_counter() - start:.0f}")
    return table


def part(number: int) -> Counter[str]:
    """One of the parts, in a process of its own."""
    from tests.gateway.engine.agreement import executors_agree
    from tests.gateway.engine.both import open_executors

    async def agreed() -> Counter[str]:
        async with open_executors() as opened:
            return await executors_agree(opened, OPERATIONS // PARTS, of_hypothesis=OF_HYPOTHESIS // PARTS, number=1000 + number)

    return asyncio.run(agreed())
