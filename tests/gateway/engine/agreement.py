"""Random operations through both executors: at its size, small in pytest and full by `python -m tests.proofs engine`."""

import random
from collections import Counter
from collections.abc import Iterator

import graphql
from graphql import OperationType
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema

from gateway.graph import schema
from tests.gateway.engine.both import Both
from tests.gateway.engine.documents import SMALL, drawn, rewritten

DOCUMENTS_A_WORLD = 7
FLAWS = (0.0, 0.02, 0.1)
OURS = (*(OperationType.QUERY,) * 7, *(OperationType.MUTATION,) * 2, OperationType.SUBSCRIPTION)
"""The kinds of documents that are not of hypothesis-graphql, in turn. Of a subscription, the answer to an event is compared."""
HANGS_EVERY = 20
"""One of so many documents waits in vain for some of the services."""
AT_ONCE = 200
"""Documents that hypothesis-graphql draws in one go."""


def drawn_by_hypothesis(count: int, number: int) -> Iterator[str]:
    """Documents of hypothesis-graphql, over the printed schema."""
    scalars = {name: st.sampled_from([graphql.parse_value(f'"{text}"') for text in SMALL[name]]) for name in ("DateTime", "Decimal")}
    scalars["Long"] = st.integers(-(2**40), 2**40).map(lambda value: graphql.parse_value(str(value)))
    documents = from_schema(graphql.build_schema(schema.printed()), custom_scalars=scalars)
    while count > 0:
        found = _collected(documents, min(count, AT_ONCE), number)
        yield from found[:count]
        count, number = count - max(len(found), 1), number + 1


def _collected(documents: st.SearchStrategy[str], count: int, number: int) -> list[str]:
    found: list[str] = []

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(documents)
    def collect(document: str) -> None:
        found.append(document)

    collect()
    return found


async def executors_agree(both: Both, count: int, *, of_hypothesis: int, number: int) -> Counter[str]:
    """Asserts that `count` operations have one answer, `of_hypothesis` of them written by hypothesis-graphql; what they were like.

    `number` chooses them: the same number, the same operations.
    """
    seen: Counter[str] = Counter()
    theirs = drawn_by_hypothesis(of_hypothesis, number)
    done, tried = 0, 0
    while done < count:
        chance = random.Random(f"{number} {tried}")
        tried += 1
        text = next(theirs, None) or drawn(chance, OURS[tried % len(OURS)])
        request = rewritten(text, chance)
        both.memory.seed = tried // DOCUMENTS_A_WORLD
        both.memory.flaws = chance.choice(FLAWS)
        both.memory.hangs = tried % HANGS_EVERY == 0
        pair = await both.same(request.query, request.variables, request.operation_name)
        if pair is None:
            seen["not valid"] += 1
            continue
        done += 1
        seen["compiled" if not pair.reason else "left to graphql-core"] += 1
        seen["with errors"] += b'"errors"' in pair.core
        seen["subscriptions"] += request.query.startswith("subscription")
        seen["unanswered"] += any(both.memory.mode(name) == "never" for name in pair.calls[1])
        seen["rpcs of graphql-core"] += len(pair.calls[0])
        seen["rpcs of the engine"] += len(pair.calls[1])
    assert seen["not valid"] < max(tried // 10, 10), "most documents should be worth running"
    return seen
