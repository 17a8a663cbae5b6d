"""The small size of the proof of facts; `python -m tests.proofs facts` runs the full one."""

from tests.faults.facts import facts_survive_kills


async def test_every_effect_stands_once_and_in_order_though_everybody_is_killed(mongo_uri: str) -> None:
    await facts_survive_kills(mongo_uri, facts=60, keys=6, kills=3)
