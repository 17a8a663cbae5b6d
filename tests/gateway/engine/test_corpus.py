"""Both executors answer the corpus equally: one document for each construct, with its variables in comments."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.auth.sessions import ANONYMOUS
from tests.gateway.engine.both import BothExecutors
from tests.gateway.engine.services import rpcs

RPCS = sorted({rpc.method.name for rpc in rpcs().values()})
CORPUS = Path(__file__).parent / "corpus"
SEEDS = 5
UNCOMPILED = {"five_conditions": "conditions", "introspection": "introspection"}
"""The documents that the engine does not compile, and the reasons."""
MODES = ("refuse", "break", "late", "answer")


def read_document(path: Path) -> tuple[str, list[tuple[str | None, dict[str, Any]]]]:
    """Returns the document, with the operation names and variables to run it with."""
    lines = path.read_text().splitlines()
    given = [line.removeprefix("# ").partition("{") for line in lines if line.startswith("# ")]
    cases = [(name.strip() or None, orjson.loads("{" + rest)) for name, _, rest in given]
    return "\n".join(line for line in lines if not line.startswith("# ")), cases or [(None, {})]


@pytest.mark.parametrize("name", sorted(path.stem for path in CORPUS.glob("*.graphql")))
async def test_construct_answers_equally(both: BothExecutors, name: str) -> None:
    query, cases = read_document(CORPUS / f"{name}.graphql")
    for operation, variables in cases:
        for seed in range(SEEDS):
            both.memory.seed, both.memory.everything_answers = seed, seed < 2
            both.memory.flaw_rate = 0.0 if seed == 0 else 0.05 * seed
            pair = await both.compare(query, variables, operation)
            assert pair is not None, "the document is not valid"
            assert pair.reason in ("", "unknown", "condition") if name not in UNCOMPILED else pair.reason == UNCOMPILED[name]


@pytest.mark.parametrize("mode", MODES)
async def test_all_rpcs_failing_answer_equally(both: BothExecutors, mode: str) -> None:
    """All rpcs refuse, fail or exceed their deadline, in every document."""
    for path in sorted(CORPUS.glob("*.graphql")):
        query, cases = read_document(path)
        both.memory.modes = dict.fromkeys(RPCS, mode)
        for operation, variables in cases:
            assert await both.compare(query, variables, operation) is not None


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "answer"])
async def test_single_rpc_failing_answers_equally(both: BothExecutors, mode: str) -> None:
    """One rpc, at any level, refuses, fails or exceeds its deadline, and all others answer."""
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    for path in sorted(CORPUS.glob("*.graphql")):
        query, cases = read_document(path)
        for both.memory.seed in range(2):
            both.memory.modes = {}
            pair = await both.compare(query, cases[0][1], cases[0][0])
            assert pair is not None
            for rpc in sorted(set(pair.calls[1])):
                both.memory.modes = {rpc: mode}
                assert await both.compare(query, cases[0][1], cases[0][0]) is not None


async def test_invalid_list_item_requests_nothing_below(both: BothExecutors) -> None:
    """An order with an invalid state makes its list null, and removes the queued references of the orders before it."""
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.1
    lost = 0
    for both.memory.seed in range(60):
        answer, calls = await both.run_engine('{ consumer(id: "con_1") { orders { nodes { store { id } state } } } }')
        if answer["data"]["consumer"] == {"orders": None}:
            assert [error["path"][-1] for error in answer["errors"]] == ["state"]
            assert "BatchGetStores" not in calls
            lost += answer["errors"][0]["path"][-2] > 0
    assert lost, "some orders had an order before them"


async def test_key_list_with_failed_rpc_fails_once(both: BothExecutors) -> None:
    both.memory.everything_answers, both.memory.flaw_rate, both.memory.modes = True, 0.0, {"BatchGetBrands": "break"}
    failed = 0
    for both.memory.seed in range(20):
        answer, _ = await both.run_engine('{ consumer(id: "con_1") { identities { brands { id } } } }')
        paths = [tuple(error["path"]) for error in answer.get("errors", ())]
        assert len(paths) == len(set(paths))
        failed += bool(paths)
    assert failed


async def test_null_answer_requests_nothing(both: BothExecutors, recwarn: pytest.WarningsRecorder) -> None:
    ids = [f"brd_{number}" for number in range(101)]
    answer, calls = await both.run_engine("query ($ids: [ID!]!) { offers { nodes { id } } nodes(ids: $ids) { id } }", {"ids": ids})
    assert (answer["data"], calls) == (None, [])
    assert [str(warning.message) for warning in recwarn] == [], "no call was left unawaited"


async def test_hanging_service_fails_only_its_own_fields(both: BothExecutors) -> None:
    both.seconds = 1.0
    both.memory.everything_answers, both.memory.modes = True, {"BatchListOrders": "never"}
    query = '{ consumer(id: "con_1") { id orders { nodes { id } } relations { nodes { brand { id } } } } offers { nodes { id } } }'
    pair = await both.compare(query)
    assert pair is not None
    answer = orjson.loads(pair.engine)
    assert answer["data"]["consumer"]["relations"] is not None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["DEADLINE_EXCEEDED"]


async def test_viewer_without_sign_in_is_null(both: BothExecutors) -> None:
    query, _ = read_document(CORPUS / "viewer.graphql")
    pair = await both.run(query, session=ANONYMOUS)
    assert pair is not None
    assert pair.engine == pair.core
    assert orjson.loads(pair.engine)["data"]["viewer"] is None


async def test_engine_makes_the_same_calls_as_dataloaders(both: BothExecutors) -> None:
    """The engine makes as few calls as the data loaders, and never requests a key twice."""
    both.memory.everything_answers, both.memory.flaw_rate = True, 0.0
    for path in sorted(CORPUS.glob("*.graphql")):
        query, cases = read_document(path)
        for operation, variables in cases:
            # Responses of a level that arrive apart may cause separate calls for the next one, so one equal run is enough.
            pairs = [await both.compare(query, variables, operation) for _ in range(3)]
            assert any(pair is not None and pair.calls[1] == pair.calls[0] for pair in pairs)
