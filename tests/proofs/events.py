"""Facts between three processes that are all killed at random: every effect exactly once, order kept, a parked one blocks only its key."""

from rich.table import Table

from services.kit.settings import Settings
from tests.faults.events import facts_survive_kills

FACTS, KEYS, KILLS = 1000, 40, 20


async def run(uri: str) -> Table:
    """Full size: 1,000 facts to two listeners, 20 kills."""
    table = Table(title=f"facts: {FACTS:,} facts to two listeners while sender and listeners are killed {KILLS} times")
    figures = await facts_survive_kills(Settings(mongo_uri=uri), facts=FACTS, keys=KEYS, kills=KILLS)
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*figures.values())
    return table
