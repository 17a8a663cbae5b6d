"""Agreement of both executors on random operations: few in pytest, all with `python -m tests.proofs engine`."""

import random
from collections import Counter
from collections.abc import Iterator

import graphql
from graphql import OperationType
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema

from gateway.graph import schema
from tests.gateway.engine.both import BothExecutors
from tests.gateway.engine.documents import SCALAR_VALUES, random_document, rewrite

DOCUMENTS_PER_SEED = 7
"""So many consecutive documents meet the same simulated data and failures."""
FLAW_RATES = (0.0, 0.02, 0.1)
OWN_KINDS = (*(OperationType.QUERY,) * 7, *(OperationType.MUTATION,) * 2, OperationType.SUBSCRIPTION)
"""The kinds of our own random documents, in turn. For a subscription, the answer to one event is compared."""
HANGS_EVERY = 20
"""One of so many documents meets services that never answer."""
HYPOTHESIS_BATCH = 200
"""hypothesis-graphql generates so many documents at a time."""


def hypothesis_documents(count: int, number: int) -> Iterator[str]:
    """Yields documents of hypothesis-graphql over the printed schema."""
    scalars = {
        name: st.sampled_from([graphql.parse_value(f'"{text}"') for text in SCALAR_VALUES[name]]) for name in ("DateTime", "Decimal")
    }
    scalars["Long"] = st.integers(-(2**40), 2**40).map(lambda value: graphql.parse_value(str(value)))
    documents = from_schema(graphql.build_schema(schema.print_schema()), custom_scalars=scalars)
    while count > 0:
        batch = _generate(documents, min(count, HYPOTHESIS_BATCH), number)
        yield from batch[:count]
        count, number = count - max(len(batch), 1), number + 1


def _generate(documents: st.SearchStrategy[str], count: int, number: int) -> list[str]:
    found: list[str] = []

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(documents)
    def collect(document: str) -> None:
        found.append(document)

    collect()
    return found


async def executors_agree(both: BothExecutors, count: int, *, of_hypothesis: int, number: int) -> Counter[str]:
    """Asserts that `count` operations have equal answers; returns how many there were of each kind.

    hypothesis-graphql writes `of_hypothesis` of them. `number` is the random seed: the same number gives the same operations.
    """
    seen: Counter[str] = Counter()
    generated = hypothesis_documents(of_hypothesis, number)
    done, tried = 0, 0
    while done < count:
        chance = random.Random(f"{number} {tried}")
        tried += 1
        text = next(generated, None) or random_document(chance, OWN_KINDS[tried % len(OWN_KINDS)])
        request = rewrite(text, chance)
        both.memory.seed = tried // DOCUMENTS_PER_SEED
        both.memory.flaw_rate = chance.choice(FLAW_RATES)
        both.memory.hangs = tried % HANGS_EVERY == 0
        pair = await both.compare(request.query, request.variables, request.operation_name)
        if pair is None:
            seen["not valid"] += 1
            continue
        done += 1
        seen["compiled" if not pair.reason else "not compiled"] += 1
        seen["with errors"] += b'"errors"' in pair.core
        seen["subscriptions"] += request.query.startswith("subscription")
        seen["unanswered"] += any(both.memory.mode(name) == "never" for name in pair.calls[1])
        seen["rpcs of graphql-core"] += len(pair.calls[0])
        seen["rpcs of the engine"] += len(pair.calls[1])
    assert seen["not valid"] < max(tried // 10, 10), "most documents must be valid"
    return seen
