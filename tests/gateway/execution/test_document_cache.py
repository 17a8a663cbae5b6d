"""Document cache: its bounds in bytes, with plans, and reused documents before new ones."""

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
from gateway.execution import document_cache
from gateway.execution.context import Context
from gateway.execution.document_cache import FRESH_BYTES_MAX, PLANS_BYTES_MAX, REUSED_BYTES_MAX, REUSED_MAX, DocumentLRU
from gateway.execution.executor import Executor
from gateway.graph import schema
from services.kit.errors import Unavailable
from tests.gateway.conftest import OPERATIONS


@pytest.fixture
def executor() -> Executor:
    return Executor(schema.build(), suggestions=False)


def count_bytes(documents: DocumentLRU) -> int:
    """Returns the bytes of all documents."""
    return sum(prepared.size_bytes for prepared in copy(documents).values())


CONDITIONS = "abcd"


def document_with_many_plans(name: str, operations: int = 10) -> str:
    """Returns a short document with sixteen large plans for each of its operations."""
    variables = " ".join(f"${each}: Boolean!" for each in CONDITIONS)
    queries = " ".join(f"query {name}{number}({variables}) {{ ...R }}" for number in range(operations))
    conditions = " ".join(f"{each}: __typename @include(if: ${each})" for each in CONDITIONS)
    brands = " ".join(f'{key}: brand(id: "b") {{ ...B }}' for key in "efghijklmnopqrst")
    below = """
        fragment B on Brand { ...C headquarters { id name { ...T } brand { ...C } } }
        fragment C on Brand { id kind zone currency franchised name { ...T } }
        fragment T on Text { zh en }
    """
    return f"{queries} fragment R on Query {{ {conditions} {brands} }} {below}"


class UnavailableContext(Context):
    """The context of an operation while every service is unavailable."""

    async def call(self, request: Message) -> Any:
        raise Unavailable("AWAY", "unavailable")


def compile_plans(executor: Executor, text: str, operations: int = 10) -> Iterator[Context]:
    """Compiles all plans of such a document; yields the context of each."""
    name = text.partition("(")[0].removeprefix("query ")[:-1]
    for number in range(operations):
        for values in itertools.product([True, False], repeat=len(CONDITIONS)):
            context = UnavailableContext(ANONYMOUS, None)  # type: ignore[arg-type]
            execution = executor.execute(executor.prepare(text), context, dict(zip(CONDITIONS, values, strict=True)), f"{name}{number}")
            with pytest.raises(StopIteration):
                execution.send(None)
            yield context


def test_document_cache_is_bounded(executor: Executor) -> None:
    texts = [f"{{ __typename }} # {turn} {'x' * 8_000}" for turn in range(40)]
    for text in texts:
        assert executor.prepare(text).ast is not None
        assert executor.prepare(text) is executor.documents.find(text), "the second use moves it"
    assert count_bytes(executor.documents.reused) == executor.documents.reused.currsize <= REUSED_BYTES_MAX
    assert executor.documents.find(texts[-1]) is not None
    assert executor.documents.find(texts[0]) is None


def test_new_documents_evict_no_reused_document(executor: Executor) -> None:
    text = "{ __typename } # reused"
    executor.prepare(text)
    reused = executor.prepare(text)
    for number in range(100):
        assert executor.prepare(f"{{ __typename }} # {number} {'x' * 8_000}").ast is not None
    assert executor.documents.find(text) is reused
    assert count_bytes(executor.documents.fresh) == executor.documents.fresh.currsize <= FRESH_BYTES_MAX


def test_plans_of_a_document_are_bounded(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_cache, "PLANS_BYTES_MAX", 1_000_000)
    executor.documents.reused = DocumentLRU(REUSED_MAX, 2_500_000)
    text = "{ __typename } # reused"
    assert executor.prepare(text) is executor.prepare(text)
    sizes = []
    for name in "xyz":
        for context in compile_plans(executor, document_with_many_plans(name), 2):
            assert context.compile_seconds > 0, "the client is charged for each compilation"
            assert count_bytes(executor.documents.reused) == executor.documents.reused.currsize <= executor.documents.reused.maxsize
            sizes.append(max(prepared.plan_bytes for prepared in copy(executor.documents.reused).values()))
        assert executor.prepare(text) is not None
    assert 500_000 < max(sizes) <= 1_000_000


def test_plans_take_at_most_their_counted_bytes(executor: Executor) -> None:
    text = document_with_many_plans("q")
    executor.prepare(text)
    prepared = executor.prepare(text)
    for _ in compile_plans(executor, text, 1):
        pass
    prepared.compiled.clear()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in compile_plans(executor, text, 2):
            pass
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert prepared.plan_bytes / 2 < taken < prepared.plan_bytes


@pytest.mark.parametrize("text", [path.read_text() for path in sorted(OPERATIONS.glob("*.graphql"))], ids=len)
def test_front_end_operation_keeps_its_plans(executor: Executor, text: str) -> None:
    prepared = executor.prepare(text)
    (operation,) = [each for each in prepared.ast.definitions if isinstance(each, OperationDefinitionNode)]  # type: ignore[union-attr]
    found = executor.engine.compile(prepared.ast, operation)  # type: ignore[arg-type]
    assert isinstance(found, CompiledOperation)
    with suppress(Uncompiled):
        found.plan({})
    assert found.weight * 16 < PLANS_BYTES_MAX
