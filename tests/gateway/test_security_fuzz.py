"""Mutated requests, at small size. `python -m tests.proofs gateway_fuzz` sends 20,000."""

from tests.proofs.gateway_fuzz import SEED, assert_nothing_breaks


async def test_mutated_requests_cause_no_faults(mongo_uri: str) -> None:
    await assert_nothing_breaks(mongo_uri, requests=1_000, seed=SEED + 1)
