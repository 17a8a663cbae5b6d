"""Proof of events: three processes are killed at random; effects are exactly once and in order, a parked event blocks only its key."""

from rich.table import Table

from services.kit.settings import Settings
from tests.faults.events import events_survive_kills

EVENTS, KEYS, KILLS = 1000, 40, 20


async def run(uri: str) -> Table:
    """Runs the full size: 1,000 events to two subscribers, 20 kills."""
    table = Table(title=f"events: {EVENTS:,} events to two subscribers while publisher and subscribers are killed {KILLS} times")
    figures = await events_survive_kills(Settings(mongo_uri=uri), events=EVENTS, keys=KEYS, kills=KILLS)
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*figures.values())
    return table
