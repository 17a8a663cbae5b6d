"""Whatever is sent. `python -m tests.proofs gateway_fuzz` sends 20,000."""

from tests.proofs.gateway_fuzz import SEED, nothing_breaks


async def test_nothing_that_is_sent_breaks_anything(mongo_uri: str) -> None:
    await nothing_breaks(mongo_uri, requests=1_000, seed=SEED + 1)
