"""What is kept of documents: within bounds of memory, their plans too, and what is asked for again before what is not."""

import gc
import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from typing import Any

import pytest
from google.protobuf.message import Message
from graphql import OperationDefinitionNode

from gateway.auth.sessions import ANONYMOUS
from gateway.engine.collect_fields import Uncompiled
from gateway.engine.engine import CompiledOperation
from gateway.execution import executor as executor_module
from gateway.execution.context import Context
from gateway.execution.executor import FRESH_BYTES_MAX, PLANS_BYTES_MAX, PREPARED_BYTES_MAX, PREPARED_MAX, Documents, Executor
from gateway.graph import schema
from services.kit.errors import Unavailable
from tests.gateway.conftest import OPERATIONS


@pytest.fixture
def executor() -> Executor:
    return Executor(schema.build(), suggestions=False)


def recounted(documents: Documents) -> int:
    """What all of them take."""
    return sum(prepared.weight for prepared in copy(documents).values())


CONDITIONS = "abcd"


def many_plans(name: str, operations: int = 10) -> str:
    """A short document with sixteen plans for each of its operations, all of them large."""
    variables = " ".join(f"${each}: Boolean!" for each in CONDITIONS)
    begun = " ".join(f"query {name}{number}({variables}) {{ ...R }}" for number in range(operations))
    conditions = " ".join(f"{each}: __typename @include(if: ${each})" for each in CONDITIONS)
    brands = " ".join(f'{key}: brand(id: "b") {{ ...B }}' for key in "efghijklmnopqrst")
    below = """
        fragment B on Brand { ...C headquarters { id name { ...T } brand { ...C } } }
        fragment C on Brand { id kind zone currency franchised name { ...T } }
        fragment T on Text { zh en }
    """
    return f"{begun} fragment R on Query {{ {conditions} {brands} }} {below}"


class Away(Context):
    """Of an operation while every service is away."""

    async def call(self, request: Message) -> Any:
        raise Unavailable("AWAY", "nobody is there")


def compiled(executor: Executor, text: str, operations: int = 10) -> Iterator[Context]:
    """Asks for all plans of such a document."""
    name = text.partition("(")[0].removeprefix("query ")[:-1]
    for number in range(operations):
        for values in itertools.product([True, False], repeat=len(CONDITIONS)):
            context = Away(ANONYMOUS, None)  # type: ignore[arg-type]
            answering = executor.answer(executor.prepare(text), context, dict(zip(CONDITIONS, values, strict=True)), f"{name}{number}")
            with pytest.raises(StopIteration):
                answering.send(None)
            yield context


def test_documents_kept_have_a_bound(executor: Executor) -> None:
    texts = [f"{{ __typename }} # {turn} {'x' * 8_000}" for turn in range(40)]
    for text in texts:
        assert executor.prepare(text).document is not None
        assert executor.prepare(text) is executor.known(text), "asked for again, it is kept"
    assert recounted(executor.kept) == executor.kept.currsize <= PREPARED_BYTES_MAX
    assert executor.known(texts[-1]) is not None
    assert executor.known(texts[0]) is None


def test_new_documents_drive_out_none_that_is_asked_for_again(executor: Executor) -> None:
    known = "{ __typename } # known"
    executor.prepare(known)
    kept = executor.prepare(known)
    for number in range(100):
        assert executor.prepare(f"{{ __typename }} # {number} {'x' * 8_000}").document is not None
    assert executor.known(known) is kept
    assert recounted(executor.fresh) == executor.fresh.currsize <= FRESH_BYTES_MAX


def test_plans_are_counted_and_have_a_bound(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "PLANS_BYTES_MAX", 1_000_000)
    executor.kept = Documents(PREPARED_MAX, 2_500_000)
    known = "{ __typename } # known"
    assert executor.prepare(known) is executor.prepare(known)
    most = []
    for name in "xyz":
        for context in compiled(executor, many_plans(name), 2):
            assert context.cold_seconds > 0, "each was compiled for whoever asked, who is charged for it"
            assert recounted(executor.kept) == executor.kept.currsize <= executor.kept.maxsize
            most.append(max(prepared.plans_weight for prepared in copy(executor.kept).values()))
        assert executor.prepare(known) is not None
    assert 500_000 < max(most) <= 1_000_000, "of each document some are kept, and never too many"


def test_plans_take_no_more_than_is_counted(executor: Executor) -> None:
    text = many_plans("q")
    executor.prepare(text)
    prepared = executor.prepare(text)
    for _ in compiled(executor, text, 1):
        pass
    prepared.compiled.clear()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in compiled(executor, text, 2):
            pass
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert prepared.plans_weight / 2 < taken < prepared.plans_weight


@pytest.mark.parametrize("text", [path.read_text() for path in sorted(OPERATIONS.glob("*.graphql"))], ids=len)
def test_what_front_ends_ask_keeps_its_plans(executor: Executor, text: str) -> None:
    prepared = executor.prepare(text)
    (operation,) = [each for each in prepared.document.definitions if isinstance(each, OperationDefinitionNode)]  # type: ignore[union-attr]
    found = executor.engine.compiled(prepared.document, operation)  # type: ignore[arg-type]
    assert isinstance(found, CompiledOperation)
    with suppress(Uncompiled):
        found.plan({})
    assert found.weight * 16 < PLANS_BYTES_MAX
