"""Documents of every construct, each with the variables that stand below it: both executors say the same in every world."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.auth.sessions import ANONYMOUS
from tests.gateway.engine.both import Both
from tests.gateway.engine.services import rpcs

RPCS = sorted({rpc.method.name for rpc in rpcs().values()})
CORPUS = Path(__file__).parent / "corpus"
WORLDS = 5
LEFT = {"five_conditions": "conditions", "introspection": "introspection"}
"""What the engine leaves to graphql-core, and why."""
BREAKING = ("refuse", "break", "late", "answer")


def asked(path: Path) -> tuple[str, list[tuple[str | None, dict[str, Any]]]]:
    """The document, and with which operation names and variables it is asked."""
    lines = path.read_text().splitlines()
    given = [line.removeprefix("# ").partition("{") for line in lines if line.startswith("# ")]
    cases = [(name.strip() or None, orjson.loads("{" + rest)) for name, _, rest in given]
    return "\n".join(line for line in lines if not line.startswith("# ")), cases or [(None, {})]


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.graphql")))
async def test_a_construct(both: Both, name: str) -> None:
    query, cases = asked(CORPUS / f"{name}.graphql")
    for operation, variables in cases:
        for seed in range(WORLDS):
            both.memory.seed, both.memory.everything_answers = seed, seed < 2
            both.memory.flaws = 0.0 if seed == 0 else 0.05 * seed
            pair = await both.same(query, variables, operation)
            assert pair is not None, "the document is not valid"
            assert pair.reason in ("", "unknown", "condition") if name not in LEFT else pair.reason == LEFT[name]


@pytest.mark.parametrize("mode", BREAKING)
async def test_every_service_at_once(both: Both, mode: str) -> None:
    """All rpcs refuse, break off or are late, in every document."""
    for path in sorted(CORPUS.glob("*.graphql")):
        query, cases = asked(path)
        both.memory.modes = dict.fromkeys(RPCS, mode)
        for operation, variables in cases:
            assert await both.same(query, variables, operation) is not None


@pytest.mark.parametrize("mode", [mode for mode in BREAKING if mode != "answer"])
async def test_each_rpc_alone(both: Both, mode: str) -> None:
    """One rpc refuses, breaks off or is late while all others answer, at whatever level it stands."""
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    for path in sorted(CORPUS.glob("*.graphql")):
        query, cases = asked(path)
        for both.memory.seed in range(2):
            both.memory.modes = {}
            pair = await both.same(query, cases[0][1], cases[0][0])
            assert pair is not None
            for rpc in sorted(set(pair.calls[1])):
                both.memory.modes = {rpc: mode}
                assert await both.same(query, cases[0][1], cases[0][0]) is not None


async def test_nothing_is_asked_below_what_cannot_be(both: Both) -> None:
    """An order that cannot be said takes its list with it, and what stood in the queue for the orders before it."""
    both.memory.everything_answers, both.memory.flaws = True, 0.1
    lost = 0
    for both.memory.seed in range(60):
        answer, calls = await both.alone('{ consumer(id: "con_1") { orders { nodes { store { id } state } } } }')
        if answer["data"]["consumer"] == {"orders": None}:
            assert [error["path"][-1] for error in answer["errors"]] == ["state"]
            assert "BatchGetStores" not in calls
            lost += answer["errors"][0]["path"][-2] > 0
    assert lost, "there were orders before it"


async def test_a_field_with_several_keys_fails_once(both: Both) -> None:
    both.memory.everything_answers, both.memory.flaws, both.memory.modes = True, 0.0, {"BatchGetBrands": "break"}
    several = 0
    for both.memory.seed in range(20):
        answer, _ = await both.alone('{ consumer(id: "con_1") { identities { brands { id } } } }')
        paths = [tuple(error["path"]) for error in answer.get("errors", ())]
        assert len(paths) == len(set(paths))
        several += bool(paths)
    assert several


async def test_nothing_is_asked_for_an_answer_that_is_null_as_a_whole(both: Both, recwarn: pytest.WarningsRecorder) -> None:
    ids = [f"brd_{number}" for number in range(101)]
    answer, calls = await both.alone("query ($ids: [ID!]!) { offers { nodes { id } } nodes(ids: $ids) { id } }", {"ids": ids})
    assert (answer["data"], calls) == (None, [])
    assert [str(warning.message) for warning in recwarn] == [], "nor left to be asked"


async def test_a_service_that_never_answers_costs_its_own_fields(both: Both) -> None:
    both.seconds = 1.0
    both.memory.everything_answers, both.memory.modes = True, {"BatchListOrders": "never"}
    query = '{ consumer(id: "con_1") { id orders { nodes { id } } relations { nodes { brand { id } } } } offers { nodes { id } } }'
    pair = await both.same(query)
    assert pair is not None
    answer = orjson.loads(pair.engine)
    assert answer["data"]["consumer"]["relations"] is not None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["DEADLINE_EXCEEDED"]


async def test_nobody_is_signed_in(both: Both) -> None:
    query, _ = asked(CORPUS / "viewer.graphql")
    pair = await both.run(query, session=ANONYMOUS)
    assert pair is not None
    assert pair.engine == pair.core
    assert orjson.loads(pair.engine)["data"]["viewer"] is None


async def test_a_level_takes_one_call_and_a_key_one_in_all(both: Both) -> None:
    """The engine asks as seldom as the loaders do, and never for a key twice."""
    both.memory.everything_answers, both.memory.flaws = True, 0.0
    for path in sorted(CORPUS.glob("*.graphql")):
        query, cases = asked(path)
        for operation, variables in cases:
            # What a level leads to is asked for as soon as it is known: answers that come apart may be followed apart, so once is enough.
            pairs = [await both.same(query, variables, operation) for _ in range(3)]
            assert any(pair is not None and pair.calls[1] == pair.calls[0] for pair in pairs)
